"""Priors: modules whose ``forward()`` returns p(z), a Pyro distribution with an empty batch shape."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.modules import Rebuildable

__all__ = ["StandardNormal"]


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

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or latent_dim < 1:
            raise ValueError(f"latent_dim: found {latent_dim!r}, expected a positive integer")
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)

    def extra_repr(self) -> str:
        return str(self.latent_dim)
