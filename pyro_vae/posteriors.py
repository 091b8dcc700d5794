"""Posteriors: modules whose ``forward(x)`` returns q(z|x), a Pyro distribution of batch shape ``(B,)``."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.modules import Rebuildable
from pyro_vae.networks import bounded_scale

__all__ = ["DiagonalNormal"]


class DiagonalNormal(Rebuildable):
    r"""The amortised Gaussian of the AEVB paper.

    .. math:: q(z|x) = \mathcal{N}\bigl(z;\ \mu(x),\ \mathrm{diag}\,\sigma^2(x)\bigr)

    Parameters
    ----------
    network
        Takes x, ``(*batch, *data_shape)``, to μ and the raw log-scale, stacked as ``(*batch, 2, latent_dim)``.
    low, high
        Bounds of σ, see :func:`pyro_vae.networks.bounded_scale`: no input makes the scale zero, infinite or NaN.

    Raises
    ------
    ValueError
        If the network gives another shape.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, appendix C.

    Examples
    --------
    >>> import torch
    >>> from pyro_vae.networks import MLP
    >>> q = DiagonalNormal(MLP((28, 28), (2, 50)))(torch.zeros(3, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([3]), torch.Size([50]))
    """

    def __init__(self, network: nn.Module, low: float = 1e-3, high: float = 1e3) -> None:
        super().__init__()
        self.network = network
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> dist.Distribution:
        parameters = self.network(x)
        if parameters.dim() < 2 or parameters.shape[-2] != 2:
            raise ValueError(
                f"DiagonalNormal: found a network output of shape {tuple(parameters.shape)}, "
                "expected (*batch, 2, latent_dim)"
            )
        loc, raw = parameters.unbind(-2)  # (*batch, latent_dim) each
        return dist.Normal(loc, bounded_scale(raw, self.low, self.high)).to_event(1)
