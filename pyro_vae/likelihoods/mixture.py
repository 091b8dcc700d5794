r"""Grey levels as mixtures of rounded logistics, with dependent channels for colour images.

A mixture of rounded logistics (:mod:`pyro_vae.likelihoods.logistic`) can be skewed or have several peaks, like the
levels of a pixel near an edge in an unknown place:

.. math:: P(k) = \sum_c \pi_c\, P(k | \mu_c, s_c), \qquad \sum_c \pi_c = 1 .

In a colour image the three channels of a pixel share one component. Within it green depends linearly on red, and blue
on both.

Salimans et al., *PixelCNN++*, 2017, sections 2.1 and 2.2.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.distributions import constraints

from pyro_vae.likelihoods.levels import GreyLevels, Levels
from pyro_vae.likelihoods.logistic import DiscretizedLogistic, RoundedLogistic
from pyro_vae.likelihoods.output import OneOrMore, TwoOrMore
from pyro_vae.runtime.arguments import DataShape, PositiveNumber

__all__ = ["ColourLevels", "DiscretizedLogisticMixture"]


class DiscretizedLogisticMixture(DiscretizedLogistic):
    r"""Independent pixels, each a mixture of rounded logistics over its grey level or its three colour channels.

    .. math:: P(k|z) = \prod_i \sum_c \pi_{ic}\, P(k_i | \mu_{ic}, s_{ic})

    Data of shape ``(3, H, W)`` are colour images. Each pixel is a mixture over its three channels r, g and b, scaled to
    [-1, 1], and each component has coefficients α, β and γ in (-1, 1):

    .. math:: P(r, g, b|z) = \sum_c \pi_c\, P(r|\mu_{rc}, s_{rc})\, P(g|\mu_{gc} + \alpha_c r, s_{gc})\,
              P(b|\mu_{bc} + \beta_c r + \gamma_c g, s_{bc})

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to ``(*batch, 3 * num_components, *data_shape)``: the logits of
        all components, then their locations, then their raw log-scales. For colour it gives ``(*batch, 10 *
        num_components, H, W)``: for each component a logit, three locations, three raw log-scales, and α, β, γ before a
        tanh.
    data_shape
        The shape of one datum; its pixels are multiples of 1/(L - 1) from 0 to 1.
    num_components
        C, 1 or more.
    num_levels, low, high
        As in :class:`DiscretizedLogistic`.

    Raises
    ------
    ValueError
        If ``num_components`` is not a positive integer, ``num_levels`` is not an integer above 1, or the network gives
        another shape.

    References
    ----------
    Salimans et al., *PixelCNN++*, 2017, sections 2.1 and 2.2.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> part = DiscretizedLogisticMixture(MLP(2, (50, 4, 4)), (3, 4, 4), num_components=5)
    >>> part(torch.zeros(7, 2)).log_prob(torch.zeros(7, 3, 4, 4)).shape
    torch.Size([7])
    """

    def __init__(
        self,
        network: nn.Module | None,
        data_shape: DataShape,
        num_components: OneOrMore = 5,
        num_levels: TwoOrMore = 256,
        low: PositiveNumber = 5e-4,
        high: PositiveNumber = 1e1,
    ) -> None:
        super().__init__(network, data_shape, num_levels, low, high)
        self.num_components = num_components

    @property
    def in_colour(self) -> bool:
        """True if a datum is a colour image, ``(3, H, W)``."""
        return len(self.data_shape) == 3 and self.data_shape[0] == 3

    @property
    def num_outputs(self) -> int:
        return (10 if self.in_colour else 3) * self.num_components

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_outputs, *(self.data_shape[1:] if self.in_colour else self.data_shape))

    def from_output(self, output: Tensor) -> dist.TorchDistribution:
        num_dims = len(self.data_shape)
        if self.in_colour:
            pieces = output.unflatten(-3, (self.num_components, 10)).split((1, 3, 3, 3), -3)
            logits, loc, raw, coupling = pieces  # (*batch, C, 1 or 3, H, W)
            loc, scale = self.in_levels(loc, raw)
            return ColourLevels(logits.squeeze(-3), loc, scale, coupling.tanh(), self.num_levels)
        logits, loc, raw = output.movedim(-1 - num_dims, -1).chunk(3, -1)  # (*batch, *data_shape, C)
        components = RoundedLogistic(*self.in_levels(loc, raw), self.num_levels - 1)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
        return GreyLevels(mixture, self.num_levels).to_event(num_dims)


class ColourLevels(dist.TorchDistribution):
    """Colour images ``(3, H, W)`` whose pixels are mixtures of rounded logistics, one channel after another.

    The ``mean`` of green and blue replaces the channels before by their means. It is exact unless green or blue is
    clipped at black or white.

    Parameters
    ----------
    logits
        The logits of the components, ``(*batch, C, H, W)``.
    loc, scale
        The locations and scales in levels, ``(*batch, C, 3, H, W)``.
    coupling
        α, β and γ, ``(*batch, C, 3, H, W)``.
    num_levels
        L, 2 or more.
    observed
        A mask of the pixels that are scored, ``(*batch, H, W)``, by default all.

    Examples
    --------
    >>> shape = (4, 3, 8, 8)
    >>> p = ColourLevels(torch.zeros(4, 8, 8), torch.full(shape, 127.0), torch.ones(shape), torch.zeros(shape), 256)
    >>> p.event_shape, p.sample().shape
    (torch.Size([3, 8, 8]), torch.Size([3, 8, 8]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coupling: Tensor,
        num_levels: int,
        observed: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale, self.coupling = logits, loc, scale, coupling
        self.num_levels, self.observed = num_levels, observed
        super().__init__(logits.shape[:-3], torch.Size((3, *logits.shape[-2:])), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        return constraints.independent(Levels(self.num_levels), 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ColourLevels:
        new = self._get_checked_instance(ColourLevels, _instance)
        batch_shape = torch.Size(batch_shape)
        image = self.event_shape[1:]
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-3:])
        for name in ("loc", "scale", "coupling"):
            tensor = getattr(self, name)
            setattr(new, name, tensor.expand(batch_shape + tensor.shape[-4:]))
        new.num_levels = self.num_levels
        new.observed = None if self.observed is None else self.observed.expand(batch_shape + image)
        super(ColourLevels, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def check_observed(self, mask: Tensor) -> None:
        """Raise ``ValueError`` for a pixel of which some channels are observed and some are not."""
        num = mask.bool().sum(-3)  # (*batch, H, W)
        partly = (num > 0) & (num < 3)
        if partly.any():
            found = int(num[partly][0])
            raise ValueError(
                f"mask: found a pixel with {found} of 3 channels observed, expected all or none of them, as its "
                "channels are not independent under this likelihood; mark the whole pixel as missing, or use a "
                "likelihood of independent entries"
            )

    def masked(self, mask: Tensor) -> ColourLevels:
        """Return the distribution without the pixels that are not observed.

        ``mask``, ``(*batch, 3, H, W)``, is true for observed entries. A pixel has all of its channels or none.
        """
        if detect_fake_mode() is None:  # a run without values has none to check
            self.check_observed(mask)
        observed = mask.bool().all(-3)  # (*batch, H, W)
        shape = torch.broadcast_shapes(self.batch_shape, observed.shape[:-2])
        new = self.expand(shape)
        new.observed = observed if new.observed is None else observed & new.observed
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        channels = (value * (self.num_levels - 1)).round().unsqueeze(-4).unbind(-3)  # three of (*batch, 1, H, W)
        log_p = self.logits.log_softmax(-3)  # (*batch, C, H, W)
        for index, level in enumerate(channels):
            log_p = log_p + self._channel(*channels[:index]).log_prob(level)
        pixels = log_p.logsumexp(-3)  # (*batch, H, W)
        if self.observed is not None:
            pixels = torch.where(self.observed, pixels, 0.0)
        return pixels.sum((-2, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            whole = self.expand(shape)
            drawn = dist.Categorical(logits=whole.logits.movedim(-3, -1)).sample().unsqueeze(-3)  # (*shape, 1, H, W)
            rows = drawn.unsqueeze(-3).expand(*shape, 1, *self.event_shape)  # (*shape, 1, 3, H, W)
            loc, scale, coupling = (t.gather(-4, rows) for t in (whole.loc, whole.scale, whole.coupling))
            one = ColourLevels(whole.logits.gather(-3, drawn), loc, scale, coupling, self.num_levels)
            levels: list[Tensor] = []
            for _ in range(3):
                levels.append(one._channel(*levels).sample())
            return torch.cat(levels, -3) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        levels: list[Tensor] = []
        for _ in range(3):
            levels.append(self._channel(*levels).mean)  # (*batch, C, H, W)
        weights = self.logits.softmax(-3).unsqueeze(-3)  # (*batch, C, 1, H, W)
        return (weights * torch.stack(levels, -3)).sum(-4) / (self.num_levels - 1)

    def _channel(self, *before: Tensor) -> RoundedLogistic:
        """Return the next channel under each component, ``(*batch, C, H, W)``, given the levels of those before."""
        index, middle = len(before), (self.num_levels - 1) / 2
        alpha, beta, gamma = self.coupling.unbind(-3)
        loc = self.loc[..., index, :, :]
        for weight, level in zip(((), (alpha,), (beta, gamma))[index], before, strict=True):
            loc = loc + weight * (level - middle)
        return RoundedLogistic(loc, self.scale[..., index, :, :], self.num_levels - 1)
