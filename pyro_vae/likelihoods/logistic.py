r"""Grey levels as rounded logistic noise.

Draw from a logistic distribution with location μ and scale s, round to the nearest level, and clip to the first and the
last level. Level k then has the probability of an interval, and the first and the last level have the tails too,

.. math:: P(k) = \sigma\Bigl(\frac{k + \frac12 - \mu}{s}\Bigr) - \sigma\Bigl(\frac{k - \frac12 - \mu}{s}\Bigr), \qquad
          \sigma(y) = \frac1{1 + e^{-y}} .

Where the sigmoids of a and b = a + 1/s are both close to 0 or 1, their difference is lost to rounding. But it is also a
product, whose factors have logarithms that are exact everywhere:

.. math:: \sigma(b) - \sigma(a) = \sigma(b)\, \sigma(-a)\, \bigl(1 - e^{a - b}\bigr) .

Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016. For mixtures and colour see
:mod:`pyro_vae.likelihoods.mixture`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_vae.likelihoods.levels import GreyLevels
from pyro_vae.likelihoods.output import Likelihood, TwoOrMore
from pyro_vae.nn.scales import bounded_scale, check_bounds
from pyro_vae.runtime.arguments import DataShape, PositiveNumber

__all__ = ["DiscretizedLogistic", "RoundedLogistic"]


class RoundedLogistic(dist.TorchDistribution):
    """Logistic draws, rounded and clipped to 0, 1, ... ``top``; location and scale are in levels.

    >>> p = RoundedLogistic(torch.tensor(-1000.0), torch.tensor(0.1), top=255)
    >>> p.log_prob(torch.tensor([0.0, 255.0])), p.mean
    (tensor([ 0., -12545.]), tensor(0.))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, top: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.top = top
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.top)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RoundedLogistic:
        new = self._get_checked_instance(RoundedLogistic, _instance)
        new.loc, new.scale, new.top = self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.top
        super(RoundedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        centred = value - self.loc
        below = logsigmoid((centred + 0.5) / self.scale)  # log P(up to this level)
        above = logsigmoid((0.5 - centred) / self.scale)  # log P(this level or more)
        between = below + above + torch.log(-torch.expm1(-1 / self.scale))
        return torch.where(value <= 0, below, torch.where(value >= self.top, above, between))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return dist.Logistic(self.loc, self.scale).sample(torch.Size(sample_shape)).round().clamp(0, self.top)

    @property
    def mean(self) -> Tensor:
        # The sum of P(k or more) over levels, in a loop: at once it would take 255 times the memory of an image.
        total = torch.zeros_like(self.loc)
        for k in range(1, self.top + 1):
            total = total + torch.sigmoid((self.loc - k + 0.5) / self.scale)
        return total


class DiscretizedLogistic(Likelihood):
    r"""Independent grey levels with rounded logistic distributions.

    .. math:: P(k|z) = \prod_i \sigma\Bigl(\frac{k_i + \frac12 - \mu_i}{s_i}\Bigr)
                             - \sigma\Bigl(\frac{k_i - \frac12 - \mu_i}{s_i}\Bigr), \qquad x_i = \frac{k_i}{L - 1}

    The first and the last level have the tails too.

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to locations and raw log-scales, stacked as ``(*batch, 2,
        *data_shape)``. The location -1 is black, 0 is the middle grey and 1 is white; it is not bounded.
    data_shape
        The shape of one datum; its pixels are multiples of 1/(L - 1) from 0 to 1.
    num_levels
        L, 2 or more: 256 for bytes.
    low, high
        The bounds of the scale as a part of the range from black to white, see
        :func:`pyro_vae.nn.scales.bounded_scale`. The default ``low`` is an eighth of a level of bytes, at which a
        single level has nearly all of the mass.

    Raises
    ------
    ValueError
        If ``num_levels`` is not an integer above 1, or the network gives another shape.

    References
    ----------
    Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016, section 5.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = DiscretizedLogistic(MLP(2, (2, 3)), (3,), num_levels=4)(torch.zeros(1, 2))
    >>> levels = torch.arange(4)[:, None, None] / 3
    >>> p.mean, p.base_dist.log_prob(levels).exp().sum(0)
    (tensor([[0.5000, 0.5000, 0.5000]], grad_fn=<DivBackward0>), tensor([[1., 1., 1.]], grad_fn=<SumBackward1>))
    """

    def __init__(
        self,
        network: nn.Module | None,
        data_shape: DataShape,
        num_levels: TwoOrMore = 256,
        low: PositiveNumber = 5e-4,
        high: PositiveNumber = 1e1,
    ) -> None:
        super().__init__(network, data_shape)
        check_bounds(low, high)
        self.num_levels = num_levels
        self.low, self.high = low, high

    @property
    def num_outputs(self) -> int:
        return 2

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        return GreyLevels(RoundedLogistic(*self.in_levels(*parameters), self.num_levels - 1), self.num_levels)

    def in_levels(self, loc: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Convert the network's locations and raw log-scales to locations and scales in levels."""
        top = self.num_levels - 1
        return (loc + 1) * (top / 2), bounded_scale(raw, self.low, self.high) * top
