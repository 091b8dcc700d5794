r"""Correlated Gaussians as maps of noise that they remember, so that the density of a draw is exact in float32.

.. math:: z = \mu + L \epsilon, \qquad
          \log q(z) = -\tfrac12 |\epsilon|^2 - \sum_i \log L_{ii} - \tfrac D2 \log 2\pi

The usual way solves :math:`L^{-1}(z - \mu)`, where z has been rounded. That multiplies the rounding by the condition
number of L, which grows like a power of its entries: with D = 10, :math:`L_{ii} = 0.05` and standard normal entries
below the diagonal, log q of a draw in float32 is wrong by 10⁹ nats. No solver helps, as the rounded z does have another
density. The noise, however, is known when z is drawn.

Of low rank, :math:`z = \mu + U w + \sigma e` has more noise than entries. Let :math:`A = U/\sigma` by rows,

.. math:: \log q(z) = -\tfrac12 \min_v \bigl(|e - A v|^2 + |w + v|^2\bigr)
          - \tfrac12 \log\det(I + A^\top A) - \sum_i \log \sigma_i - \tfrac D2 \log 2\pi .

This is a least-squares problem in the noise. A QR decomposition of A over I solves it, and has the determinant on the
diagonal of its second factor. The textbook's formula (Woodbury) is the difference of two large numbers instead.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import lazy_property

from pyro_vae.flows.draws import Remembering

__all__ = ["FactorNormal", "TriangularNormal"]

_LOG_2_PI = math.log(2 * math.pi)


class TriangularNormal(Remembering, dist.MultivariateNormal):
    r"""A Gaussian given by the Cholesky factor of its covariance, exact in float32 at its own draws.

    The derivative of a draw's log-density by the parameters is the total one, through the draw as well, and there is
    none by the draw. Of a draw that was made without a gradient, and of one that
    :func:`pyro_vae.flows.draws.remember` brought, it is the partial one, to first order, of the density at the noise

    .. math:: \epsilon + L^{-1}\bigl(z - \mu - L\epsilon\bigr), \qquad \text{where the bracket is zero.}

    At other values the density is computed in float64, which mends the solver's error but not that of a rounded value.

    Examples
    --------
    >>> q = TriangularNormal(torch.zeros(2), scale_tril=torch.tensor([[0.5, 0.0], [1e6, 0.5]]))
    >>> z = q.rsample((1000,))
    >>> torch.allclose(q.log_prob(z).mean(), -q.entropy(), atol=0.3)
    True
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = _normal(self.loc, self._extended_shape(torch.Size(sample_shape)))
        value = self._image(noise)
        self.remember(value, noise, value.grad_fn)
        return value

    def _image(self, noise: Tensor) -> Tensor:
        image: Tensor = self.loc + (self._unbroadcasted_scale_tril @ noise[..., None])[..., 0]
        return image

    def noise_of(self, value: Tensor) -> Tensor:
        """Return the noise whose image a value is: of the last draw, what it was made of, else a solution in float64.

        >>> q = TriangularNormal(torch.ones(2), scale_tril=2 * torch.eye(2))
        >>> q.noise_of(torch.tensor([1.0, 3.0]))
        tensor([0., 1.])
        """
        if (noise := self.noise_of_draw(value)) is not None:
            return noise
        moved = value.double() - self.loc.double()
        return _solved(self._unbroadcasted_scale_tril.double(), moved).to(value.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if (noise := self.noise_of_draw(value)) is None:
            loc, tril = self.loc.double(), self._unbroadcasted_scale_tril.double()
            exact = dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)
            log_q: Tensor = exact.log_prob(value.double())
            return log_q.to(self.loc.dtype)
        log_det = self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_q = -0.5 * (noise.square() + _LOG_2_PI).sum(-1) - log_det
        if self.moves_along(value):
            return log_q
        slope = _solved(self._unbroadcasted_scale_tril.detach().double(), noise.double(), transposed=True)
        slope = slope.nan_to_num(nan=torch.finfo(slope.dtype).max)  # zero times what is not finite would be NaN
        change = _change(value - self._image(noise)).double()
        return log_q - (slope * change).sum(-1).to(log_q.dtype)


class FactorNormal(Remembering, dist.LowRankMultivariateNormal):
    r"""A Gaussian whose covariance is of low rank plus a diagonal, exact in float32 at its own draws.

    The derivatives are those of :class:`TriangularNormal`. Densities are computed in float64.

    Examples
    --------
    >>> q = FactorNormal(torch.zeros(3), 1e4 * torch.ones(3, 2), torch.full((3,), 1e-6))
    >>> z = q.rsample((1000,))
    >>> torch.allclose(q.log_prob(z).mean(), -q.entropy(), atol=0.3)
    True
    """

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = cov_factor, cov_diag
        self._stack = _Stack(cov_factor, cov_diag)
        self._expand(loc, batch_shape)
        torch.distributions.Distribution.__init__(self, batch_shape, loc.shape[-1:], validate_args)

    def _expand(self, loc: Tensor, batch_shape: torch.Size) -> None:
        factor, diag = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
        self.loc = loc.expand(*batch_shape, -1)
        self.cov_diag, self.cov_factor = diag.expand(*batch_shape, -1), factor.expand(*batch_shape, -1, -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactorNormal:
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new._unbroadcasted_cov_factor = self._unbroadcasted_cov_factor
        new._unbroadcasted_cov_diag = self._unbroadcasted_cov_diag
        new._stack = self._stack
        new._expand(self.loc, torch.Size(batch_shape))
        torch.distributions.Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _capacitance_tril(self) -> Tensor:
        """The Cholesky factor of I + AᵀA, by which torch computes entropies and divergences."""
        r = self._stack.decomposition[1]
        signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
        return (signs[..., None] * r).mT.to(self.loc.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        inner = _normal(self.loc, shape[:-1] + self.cov_factor.shape[-1:])  # (*shape, r), w
        noise = torch.cat([inner, _normal(self.loc, shape)], -1)  # (*shape, r + D)
        value = self._image(noise)
        self.remember(value, noise, value.grad_fn)
        return value

    def _image(self, noise: Tensor) -> Tensor:
        inner, outer = noise.tensor_split([self.cov_factor.shape[-1]], -1)
        common: Tensor = self.loc + (self._unbroadcasted_cov_factor @ inner[..., None])[..., 0]
        return common + self._unbroadcasted_cov_diag.sqrt() * outer

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        scale = self._unbroadcasted_cov_diag.double().sqrt()
        if (noise := self.noise_of_draw(value)) is None:
            outer = (value.double() - self.loc.double()) / scale
            inner = outer.new_zeros(*outer.shape[:-1], self.cov_factor.shape[-1])
        else:
            inner, outer = noise.double().tensor_split([self.cov_factor.shape[-1]], -1)
            if not self.moves_along(value):
                outer = outer + _change(value - self._image(noise)).double() / scale
        q, r = self._stack.decomposition
        stacked = torch.cat([outer, -inner], -1)  # (*shape, D + r)
        in_range = torch.einsum("...ij,...i->...j", q, stacked)
        rest = stacked - torch.einsum("...ij,...j->...i", q, in_range)
        log_det = r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1) + scale.log().sum(-1)
        log_q = -0.5 * (rest.square().sum(-1) + outer.shape[-1] * _LOG_2_PI) - log_det
        return log_q.to(self.loc.dtype)


class _Stack:
    """The QR decomposition of A over I in float64, computed once for all expanded copies."""

    def __init__(self, cov_factor: Tensor, cov_diag: Tensor) -> None:
        self._factor, self._diag = cov_factor, cov_diag

    @lazy_property
    def decomposition(self) -> tuple[Tensor, Tensor]:
        scaled = self._factor.double() / self._diag.double().sqrt()[..., None]  # (*batch, D, r), A
        one = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
        q, r = torch.linalg.qr(torch.cat([scaled, one.expand(*scaled.shape[:-2], -1, -1)], -2))
        return q, r


def _normal(like: Tensor, shape: torch.Size) -> Tensor:
    """Return standard normal noise, from the numbers that torch's own distributions take."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).normal_()


def _change(value: Tensor) -> Tensor:
    """Return zeros that have the derivative of a value."""
    return value - value.detach()


def _solved(tril: Tensor, vectors: Tensor, transposed: bool = False) -> Tensor:
    """Return the solutions of systems by L or its transpose for vectors ``(*sample, *batch, D)``, batched by datum."""
    num_sample = vectors.dim() - tril.dim() + 1
    num_vectors = vectors.shape[:num_sample].numel()
    columns = vectors.reshape(num_vectors, *vectors.shape[num_sample:]).movedim(0, -1)  # (*batch, D, n)
    found = torch.linalg.solve_triangular(tril.mT if transposed else tril, columns, upper=transposed)
    return found.movedim(-1, 0).reshape(vectors.shape)
