"""Posteriors: modules whose ``forward(x)`` returns q(z|x), a Pyro distribution of batch shape ``(B,)``.

In a hierarchy a posterior is conditioned on the layer drawn before, with x or instead of it, and the same modules are
the model's transitions p(z_t|z_{t+1}).
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.modules import Rebuildable
from pyro_vae.networks import bounded_scale

__all__ = ["DiagonalNormal", "precision_weighted"]


class DiagonalNormal(Rebuildable):
    r"""The amortised Gaussian of the AEVB paper.

    .. math:: q(z|x) = \mathcal{N}\bigl(z;\ \mu(x),\ \mathrm{diag}\,\sigma^2(x)\bigr)

    Parameters
    ----------
    network
        Takes x, ``(*batch, *data_shape)``, to μ and the raw log-scale, stacked as ``(*batch, 2, latent_dim)``. In a
        hierarchy x is the layer before, or several tensors.
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

    def forward(self, *x: Tensor) -> dist.Distribution:
        parameters = self.network(*x)
        if parameters.dim() < 2 or parameters.shape[-2] != 2:
            raise ValueError(
                f"DiagonalNormal: found a network output of shape {tuple(parameters.shape)}, "
                "expected (*batch, 2, latent_dim)"
            )
        loc, raw = parameters.unbind(-2)  # (*batch, latent_dim) each
        return dist.Normal(loc, bounded_scale(raw, self.low, self.high)).to_event(1)


def precision_weighted(first: Any, second: Any) -> dist.Independent:
    r"""Return the normalised product of two diagonal Gaussians: precisions add, and weigh the means.

    .. math:: \mathcal{N}(z; \mu_1, \sigma_1^2)\, \mathcal{N}(z; \mu_2, \sigma_2^2)
              \propto \mathcal{N}(z; \mu, \sigma^2), \qquad
              \frac1{\sigma^2} = \frac1{\sigma_1^2} + \frac1{\sigma_2^2}, \quad
              \frac{\mu}{\sigma^2} = \frac{\mu_1}{\sigma_1^2} + \frac{\mu_2}{\sigma_2^2}

    Their batch shapes may broadcast.

    Raises
    ------
    TypeError
        If one of them is no diagonal Gaussian.

    References
    ----------
    Sønderby et al., *Ladder Variational Autoencoders*, 2016.

    Examples
    --------
    >>> import torch
    >>> first = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    >>> second = dist.Normal(torch.ones(2), 1.0).to_event(1)
    >>> merged = precision_weighted(first, second)
    >>> merged.mean, merged.variance
    (tensor([0.5000, 0.5000]), tensor([0.5000, 0.5000]))
    """
    for factor in (first, second):
        if not isinstance(getattr(factor, "base_dist", None), dist.Normal):
            raise TypeError(f"found {factor}, expected a diagonal Gaussian, Normal(...).to_event(n)")
    one, two = 1 / first.variance, 1 / second.variance
    variance = 1 / (one + two)
    loc = variance * (one * first.mean + two * second.mean)
    return dist.Normal(loc, variance.sqrt()).to_event(len(first.event_shape))
