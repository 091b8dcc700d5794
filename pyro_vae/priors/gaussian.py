"""Gaussian priors: the standard normal, and one with a learned mean and scale."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale, inverse_bounded_scale
from pyro_vae.runtime.arguments import PositiveInteger, PositiveNumber

__all__ = ["LearnedNormal", "StandardNormal"]


class StandardNormal(Rebuildable):
    r"""The standard normal prior of the AEVB paper.

    .. math:: p(z) = \mathcal{N}(z; 0, I)

    Parameters
    ----------
    latent_dim
        The length of z.

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
    r"""A diagonal Gaussian with learned mean and scale, which starts as the standard normal.

    .. math:: p(z) = \mathcal{N}(z; \mu, \mathrm{diag}\,\sigma^2)

    It adds nothing to the standard normal if the decoder starts with an affine layer, which can shift and scale z too.

    Parameters
    ----------
    latent_dim
        The length of z.
    low, high
        The bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`.

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
