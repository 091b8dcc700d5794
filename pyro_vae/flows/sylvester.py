r"""The Sylvester flow: a planar flow with several directions at once.

.. math:: z = \epsilon + Q R \tanh\bigl(\tilde R Q^\top \epsilon + b\bigr), \qquad
          \log \Bigl|\det \frac{\partial z}{\partial \epsilon}\Bigr|
          = \sum_d \log \bigl(1 + \tanh'(\cdot)_d\, \tilde R_{dd} R_{dd}\bigr)

Q is orthogonal, here a product of Householder reflections, and R and R̃ are upper triangular. By Sylvester's identity
the determinant is that of :math:`I + \mathrm{diag}(\tanh')\, \tilde R Q^\top Q R`, which is triangular. Pyro's
transform of this name multiplies in another order, where Q does not cancel, but returns the same sum.

Van den Berg, Hasenclever, Tomczak and Welling, *Sylvester Normalizing Flows for Variational Inference*, 2018.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae.runtime.arguments import NonNegativeInteger, PositiveInteger, checked

__all__ = ["Sylvester"]


class Sylvester(nn.Module):
    """A Sylvester transform whose parameters depend on a context, ``(*batch, context_dim)``, if there is one.

    The diagonals of R and R̃ are bounded, so that the transform is invertible, but its inverse has no formula. It starts
    near the identity.

    Parameters
    ----------
    latent_dim
        The length D of the vectors.
    context_dim
        The length of the context; 0 for a transform without one.
    num_reflections
        The number of Householder reflections in Q.

    Examples
    --------
    >>> transform = Sylvester(3, context_dim=5)(torch.zeros(4, 5))
    >>> z, log_det = transform.call_and_ladj(torch.zeros(4, 3))
    >>> z.shape, log_det.shape
    (torch.Size([4, 3]), torch.Size([4]))
    """

    @checked
    def __init__(
        self, latent_dim: PositiveInteger, context_dim: NonNegativeInteger = 0, num_reflections: PositiveInteger = 4
    ) -> None:
        super().__init__()
        self.latent_dim, self.num_reflections = latent_dim, num_reflections
        count = num_reflections * latent_dim + 2 * latent_dim**2 + latent_dim
        start = 0.01 * torch.randn(count)
        start[: num_reflections * latent_dim] *= 100  # reflections are normalised: their length has no effect
        self.start = nn.Parameter(start)
        self.from_context = nn.Linear(context_dim, count, bias=False) if context_dim else None
        if self.from_context is not None:
            nn.init.normal_(self.from_context.weight, std=0.01)

    def forward(self, context: Tensor | None = None) -> Transform:
        D, H = self.latent_dim, self.num_reflections
        parameters = self.start
        if self.from_context is not None:
            parameters = parameters + self.from_context(context)
        directions, r, s, b = parameters.split([H * D, D * D, D * D, D], -1)
        q = torch.eye(D, dtype=b.dtype, device=b.device)
        for u in directions.unflatten(-1, (H, D)).unbind(-2):
            u = nn.functional.normalize(u, dim=-1)
            q = q - 2 * (q @ u[..., None]) * u[..., None, :]  # Q (I - 2 u u^T), (*batch, D, D)
        return _Transform(q, _bounded_triangle(r.unflatten(-1, (D, D))), _bounded_triangle(s.unflatten(-1, (D, D))), b)


def _bounded_triangle(matrix: Tensor) -> Tensor:
    """Return the upper triangle of a matrix, with its diagonal mapped to (-1, 1)."""
    return matrix.triu(1) + torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1).tanh())


class _Transform(Transform):
    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, q: Tensor, r: Tensor, s: Tensor, b: Tensor) -> None:
        super().__init__()
        self.q, self.r, self.s, self.b = q, r, s, b

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant, ``(*batch,)``."""
        h = torch.tanh((self.s @ (self.q.mT @ x[..., None]))[..., 0] + self.b)
        z = x + (self.q @ (self.r @ h[..., None]))[..., 0]
        diagonals = self.s.diagonal(dim1=-2, dim2=-1) * self.r.diagonal(dim1=-2, dim2=-1)
        return z, torch.log1p((1 - h.square()) * diagonals).sum(-1)

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Any) -> Tensor:
        raise KeyError("a Sylvester transform has no inverse in closed form")

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]
