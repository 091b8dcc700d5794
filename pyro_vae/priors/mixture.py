"""A prior with several modes: a mixture of Gaussians."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale, inverse_bounded_scale
from pyro_vae.runtime.arguments import PositiveInteger, PositiveNumber

__all__ = ["DiagonalMixture", "GaussianMixture", "mixture"]


class GaussianMixture(Rebuildable):
    r"""A mixture of diagonal Gaussians with learned weights, means and scales.

    .. math:: p(z) = \sum_{m=1}^M \pi_m\, \mathcal{N}(z;\ \mu_m,\ \mathrm{diag}\,\sigma_m^2)

    The means start as draws of the standard normal, the scales at one, and the weights equal.

    Parameters
    ----------
    num_components
        M.
    latent_dim
        The length of z.
    low, high
        The bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`. They keep a component from shrinking to a point.

    Raises
    ------
    ValueError
        If ``num_components`` or ``latent_dim`` is not a positive integer.

    References
    ----------
    Dilokthanakul et al., *Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders*, 2016; the
    baseline "MoG" of Tomczak and Welling, *VAE with a VampPrior*, 2018.

    Examples
    --------
    >>> p = GaussianMixture(10, latent_dim=2)()
    >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(4, 2)).shape
    (torch.Size([]), torch.Size([2]), torch.Size([4]))
    """

    def __init__(
        self,
        num_components: PositiveInteger,
        latent_dim: PositiveInteger,
        low: PositiveNumber = 1e-2,
        high: PositiveNumber = 1e2,
    ) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.raw_scale = nn.Parameter(inverse_bounded_scale(torch.ones(num_components, latent_dim), low, high))
        self.low, self.high = low, high

    def forward(self) -> dist.Distribution:
        scale = bounded_scale(self.raw_scale, self.low, self.high)
        return mixture(self.logits, dist.Normal(self.loc, scale).to_event(1))


def mixture(logits: Tensor, components: Any) -> dist.TorchDistribution:
    """Return the mixture of M distributions, of batch shape ``(M,)``, with the logits of their weights, ``(M,)``."""
    base = getattr(components, "base_dist", None)
    if isinstance(base, torch.distributions.Normal) and len(components.event_shape) == 1:
        return DiagonalMixture(logits, base.loc, base.scale)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)


class DiagonalMixture(dist.TorchDistribution):
    r"""A mixture of many diagonal Gaussians, scored by two matrix products.

    .. math:: -\tfrac12 \sum_d \frac{(z_d - \mu_{md})^2}{\sigma_{md}^2} = -\tfrac12 \Bigl(\sum_d z_d^2 \sigma_{md}^{-2}
              - 2 \sum_d z_d \mu_{md} \sigma_{md}^{-2} + \sum_d \mu_{md}^2 \sigma_{md}^{-2}\Bigr)

    The three sums nearly cancel, so they are computed in float64. No tensor of all z, components and entries is made.

    Parameters
    ----------
    logits
        The logits of the weights, ``(M,)``.
    loc, scale
        The means and scales of the components, ``(M, D)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        batch_shape: Any = (),
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalMixture:
        return DiagonalMixture(self.logits, self.loc, self.scale, batch_shape, self._validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            chosen = torch.distributions.Categorical(logits=self.logits).sample(self._extended_shape(sample_shape)[:-1])
            return torch.normal(self.loc[chosen], self.scale[chosen])  # (*sample_shape, *batch_shape, D)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z, loc, precision = value.double(), self.loc.double(), self.scale.double().pow(-2)
        squares = z.square() @ precision.T - 2 * z @ (precision * loc).T + (precision * loc.square()).sum(-1)
        constants = self.scale.double().log().sum(-1) + 0.5 * math.log(2 * math.pi) * z.shape[-1]  # (M,)
        terms = self.logits.double().log_softmax(-1) - 0.5 * squares - constants  # (*batch, M)
        log_p = terms.logsumexp(-1).to(value.dtype)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) @ self.loc).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        second = self.logits.softmax(-1) @ (self.scale.square() + self.loc.square())
        return second - self.mean.square()
