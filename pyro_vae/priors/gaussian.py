"""Gaussian priors: the standard one, and one whose mean and scale are learned."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale, inverse_bounded_scale
from pyro_vae.runtime.arguments import PositiveInteger, PositiveNumber

__all__ = ["LearnedNormal", "StandardNormal"]


class StandardNormal(Rebuildable):
    r"""The prior of the AEVB paper.

    .. math:: p(z) = \mathcal{N}(z; 0, I)

    Parameters
    ----------
    latent_dim
        Length of z.

    Raises
    ------
    ValueError
        If ``latent_dim`` is not a positive integer.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, section 3.

    Examples
    --------
    >>> StandardNormal(2)().log_prob(torch.zeros(2))  # -log 2 pi, in nats
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: PositiveInteger) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)

    def extra_repr(self) -> str:
        return str(self.latent_dim)


class LearnedNormal(Rebuildable):
    r"""A diagonal Gaussian with parameters of its own, which start at the standard normal's.

    .. math:: p(z) = \mathcal{N}(z; \mu, \mathrm{diag}\,\sigma^2)

    With a decoder that begins with an affine layer it is no richer than the standard normal: that layer can do the
    same.

    Parameters
    ----------
    latent_dim
        Length of z.
    low, high
        Bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`.

    Raises
    ------
    ValueError
        If ``latent_dim`` is not a positive integer.

    Examples
    --------
    >>> torch.equal(LearnedNormal(2)().mean, StandardNormal(2)().mean)
    True
    """

    def __init__(self, latent_dim: PositiveInteger, low: PositiveNumber = 1e-3, high: PositiveNumber = 1e3) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(inverse_bounded_scale(torch.ones(latent_dim), low, high))
        self.low, self.high = low, high

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, bounded_scale(self.raw_scale, self.low, self.high)).to_event(1)
