r"""A VAE of two latents by quadrature: log p(x) and the moments of the posterior on a grid, without running a program.

.. math:: p(x) = \int p(z)\, p(x|z)\, dz \approx h^2 \sum_{ij} p(z_{ij})\, p(x|z_{ij})

A sum over a grid of a smooth density that dies away at its ends is exact but for terms that fall exponentially in 1/h.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def quadrature(vae: Any, x: Tensor, num_points: int = 121, width: float = 7.0) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) ``(N,)``, the posterior means ``(N, 2)`` and covariances ``(N, 2, 2)``, by ``num_points``² points."""
    axis = torch.linspace(-width, width, num_points, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    log_prior = vae.model.prior().log_prob(z)
    columns = []
    for part in z.split(20_000):
        likelihood = vae.likelihood(part)
        columns.append(torch.stack([likelihood.log_prob(datum) for datum in x]))
    log_joint = torch.cat(columns, 1) + log_prior + 2 * math.log(axis[1] - axis[0])  # (N, points)
    posterior = log_joint.softmax(1)
    mean = posterior @ z
    away = z - mean[:, None]
    return log_joint.logsumexp(1), mean, (posterior[..., None] * away).mT @ away
