r"""Gaussian posteriors with a diagonal, a full or a low-rank covariance."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.flows.gaussian import FactorNormal, TriangularNormal
from pyro_vae.nn.layers import one_tensor
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale, check_bounds
from pyro_vae.runtime.arguments import PositiveInteger, PositiveNumber

__all__ = ["DiagonalNormal", "FullNormal", "LowRankNormal", "precision_weighted"]


class DiagonalNormal(Rebuildable):
    r"""The amortised Gaussian of the AEVB paper.

    .. math:: q(z|x) = \mathcal{N}\bigl(z;\ \mu(x),\ \mathrm{diag}\,\sigma^2(x)\bigr)

    Parameters
    ----------
    network
        The encoder, from x ``(*batch, *data_shape)`` to μ and the raw log-scale, stacked as ``(*batch, 2,
        latent_dim)``. In a hierarchy x is the layer before, or several tensors.
    low, high
        The bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`. They keep it from becoming zero, infinite or NaN.

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
    >>> from pyro_vae.nn.mlp import MLP
    >>> q = DiagonalNormal(MLP((28, 28), (2, 50)))(torch.zeros(3, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([3]), torch.Size([50]))
    """

    def __init__(self, network: nn.Module, low: PositiveNumber = 1e-3, high: PositiveNumber = 1e3) -> None:
        super().__init__()
        check_bounds(low, high)
        self.network = network
        self.low, self.high = low, high

    def forward(self, *x: Tensor) -> dist.Distribution:
        parameters = one_tensor(self, self.network(*x))
        if parameters.dim() < 2 or parameters.shape[-2] != 2:
            raise ValueError(
                f"DiagonalNormal: found a network output of shape {tuple(parameters.shape)}, "
                "expected (*batch, 2, latent_dim)"
            )
        loc, raw = parameters.unbind(-2)  # (*batch, latent_dim) each
        return dist.Normal(loc, bounded_scale(raw, self.low, self.high)).to_event(1)


class FullNormal(Rebuildable):
    r"""A Gaussian with a full covariance, parameterised by its Cholesky factor.

    .. math:: q(z|x) = \mathcal{N}\bigl(z;\ \mu(x),\ L(x) L(x)^\top\bigr), \qquad
              L = \mathrm{diag}\,\sigma(x) + \text{a strictly lower triangle}

    The distribution is a :class:`pyro_vae.flows.gaussian.TriangularNormal`, exact in float32 at its own draws.

    Parameters
    ----------
    network
        The encoder, from x ``(*batch, *data_shape)`` to ``(*batch, num_outputs(latent_dim))``: μ, the raw logarithms
        of σ, and the triangle row by row.
    low, high
        The bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`.

    Raises
    ------
    ValueError
        If the length of the network's output fits no ``latent_dim``.

    References
    ----------
    Kingma and Welling, *An Introduction to Variational Autoencoders*, 2019, section 2.5.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> q = FullNormal(MLP((28, 28), FullNormal.num_outputs(10)))(torch.zeros(3, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([3]), torch.Size([10]))
    """

    def __init__(self, network: nn.Module, low: PositiveNumber = 1e-3, high: PositiveNumber = 1e3) -> None:
        super().__init__()
        check_bounds(low, high)
        self.network = network
        self.low, self.high = low, high

    @staticmethod
    def num_outputs(latent_dim: int) -> int:
        """Return the number of network outputs.

        >>> FullNormal.num_outputs(3)  # 3 of μ, 3 of σ, 3 below the diagonal
        9
        """
        return 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def forward(self, *x: Tensor) -> dist.Distribution:
        parameters = one_tensor(self, self.network(*x))
        latent_dim = (math.isqrt(9 + 8 * parameters.shape[-1]) - 3) // 2
        if self.num_outputs(latent_dim) != parameters.shape[-1]:
            raise ValueError(
                f"FullNormal: found a network output of shape {tuple(parameters.shape)}, expected (*batch, "
                "2 * latent_dim + latent_dim * (latent_dim - 1) / 2)"
            )
        count = latent_dim * (latent_dim - 1) // 2
        loc, raw, below = parameters.split([latent_dim, latent_dim, count], -1)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, -1, device=loc.device)
        triangle = below.new_zeros(*below.shape[:-1], latent_dim**2).index_copy(-1, latent_dim * rows + columns, below)
        diagonal = torch.diag_embed(bounded_scale(raw, self.low, self.high))  # (*batch, latent_dim, latent_dim)
        return TriangularNormal(loc, scale_tril=diagonal + triangle.view_as(diagonal))


class LowRankNormal(Rebuildable):
    r"""A Gaussian whose covariance is of low rank plus a diagonal.

    .. math:: q(z|x) = \mathcal{N}\bigl(z;\ \mu(x),\ U(x) U(x)^\top + \mathrm{diag}\,\sigma^2(x)\bigr),
              \qquad U \in \mathbb{R}^{D \times r}

    The distribution is a :class:`pyro_vae.flows.gaussian.FactorNormal`, exact in float32 at its own draws.

    Parameters
    ----------
    network
        The encoder, from x ``(*batch, *data_shape)`` to μ, the raw log-scale and the r columns of U, stacked as
        ``(*batch, 2 + rank, latent_dim)``.
    rank
        r.
    low, high
        The bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`.

    Raises
    ------
    ValueError
        If the rank is not a positive integer, or the network gives another shape.

    References
    ----------
    Ong, Nott and Smith, *Gaussian Variational Approximation with a Factor Covariance Structure*, 2018.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> q = LowRankNormal(MLP((28, 28), (2 + 4, 10)), rank=4)(torch.zeros(3, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([3]), torch.Size([10]))
    """

    def __init__(
        self, network: nn.Module, rank: PositiveInteger, low: PositiveNumber = 1e-3, high: PositiveNumber = 1e3
    ) -> None:
        super().__init__()
        check_bounds(low, high)
        self.network, self.rank = network, rank
        self.low, self.high = low, high

    def forward(self, *x: Tensor) -> dist.Distribution:
        parameters = one_tensor(self, self.network(*x))
        if parameters.dim() < 2 or parameters.shape[-2] != 2 + self.rank:
            raise ValueError(
                f"LowRankNormal: found a network output of shape {tuple(parameters.shape)}, expected (*batch, "
                f"{2 + self.rank}, latent_dim)"
            )
        loc, raw, factor = parameters.split([1, 1, self.rank], -2)
        scale = bounded_scale(raw.squeeze(-2), self.low, self.high)  # (*batch, latent_dim)
        return FactorNormal(loc.squeeze(-2), factor.mT, scale.square())


def precision_weighted(first: Any, second: Any) -> dist.Independent:
    r"""Return the normalised product of two diagonal Gaussians.

    .. math:: \mathcal{N}(z; \mu_1, \sigma_1^2)\, \mathcal{N}(z; \mu_2, \sigma_2^2)
              \propto \mathcal{N}(z; \mu, \sigma^2), \qquad
              \frac1{\sigma^2} = \frac1{\sigma_1^2} + \frac1{\sigma_2^2}, \quad
              \frac{\mu}{\sigma^2} = \frac{\mu_1}{\sigma_1^2} + \frac{\mu_2}{\sigma_2^2}

    Precisions add and weight the means. The batch shapes may broadcast.

    Raises
    ------
    TypeError
        If one of them is not a diagonal Gaussian.

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
    for factor in (first, second):  # the error names neither: a ladder puts its layer in front
        if not isinstance(getattr(factor, "base_dist", None), dist.Normal):
            raise TypeError(f"found {factor}, expected a diagonal Gaussian, Normal(...).to_event(n)")
    one, two = 1 / first.variance, 1 / second.variance
    variance = 1 / (one + two)
    loc = variance * (one * first.mean + two * second.mean)
    return dist.Normal(loc, variance.sqrt()).to_event(len(first.event_shape))
