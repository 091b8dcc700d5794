r"""Hamiltonian Monte Carlo in the noise of the latents, for all particles of all data at once.

The target goes from the noise of the guide, at β = 0, to that of the posterior, at β = 1:

.. math:: \log f_\beta(\epsilon) = \log p_0(\epsilon) + \beta \log w(\epsilon)

With a momentum :math:`m \sim \mathcal N(0, I)`, L leapfrog steps of size s

.. math:: m \leftarrow m + \tfrac s2 \nabla \log f_\beta(\epsilon), \quad \epsilon \leftarrow \epsilon + s\, m, \quad
          m \leftarrow m + \tfrac s2 \nabla \log f_\beta(\epsilon)

propose :math:`\epsilon'`, which is accepted with the probability

.. math:: \min\Bigl(1, \frac{f_\beta(\epsilon')}{f_\beta(\epsilon)}
          \exp\bigl(\tfrac12 |m|^2 - \tfrac12 |m'|^2\bigr)\Bigr) .

So the transition leaves :math:`f_\beta` as it is, and is reversible. The size of a step may differ from datum to datum
and from β to β, but must not depend on the particle. It is drawn anew for each transition, within a fifth of its mean,
so that no trajectory is an exact number of periods.

Neal, *MCMC Using Hamiltonian Dynamics*, 2011.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.inference.noise_space import Point

__all__ = ["Evaluate", "log_target", "transition"]

Evaluate = Callable[[Tensor], Point]
_JITTER = 0.2


def log_target(point: Point, beta: float) -> Tensor:
    """Return log f of points at one β, ``(K, B)``, in float64."""
    return point.log_noise.double() + beta * point.log_w.double()


def _force(point: Point, beta: float) -> Tensor:
    return point.noise_gradient + beta * point.w_gradient


def transition(
    point: Point, evaluate: Evaluate, beta: float, step_size: Tensor, num_steps: int
) -> tuple[Point, Tensor]:
    """Move each particle once.

    Parameters
    ----------
    point
        K particles of B data.
    evaluate
        Returns the point at any noise ``(K, B, D)``.
    beta
        Where between the guide and the posterior the target lies.
    step_size
        The mean size of a leapfrog step, ``(B,)``.
    num_steps
        L, the number of leapfrog steps.

    Returns
    -------
    tuple
        The new points, and the probability with which each proposal is accepted, ``(K, B)``.
    """
    noise = point.noise
    momentum = torch.randn_like(noise)
    size = step_size[:, None] * (1 + _JITTER * (2 * torch.rand_like(noise[..., :1]) - 1))  # (K, B, 1)
    before = log_target(point, beta) - _kinetic(momentum)
    moved = point
    momentum = momentum + 0.5 * size * _force(moved, beta)
    for step in range(num_steps):
        moved = evaluate(moved.noise + size * momentum)
        is_last = step == num_steps - 1
        momentum = momentum + (0.5 if is_last else 1.0) * size * _force(moved, beta)
    log_ratio = log_target(moved, beta) - _kinetic(momentum) - before
    probability = log_ratio.nan_to_num(-torch.inf, 0.0, -torch.inf).clamp(max=0.0).exp()
    accepted = torch.rand_like(probability) < probability
    return _where(accepted, moved, point), probability


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(-1)


def _where(chosen: Tensor, first: Point, second: Point) -> Point:
    """Return the first point where it is chosen, ``(K, B)``, and the second elsewhere."""
    pairs = zip(first, second, strict=True)
    return Point(*(torch.where(chosen if a.dim() == 2 else chosen[..., None], a, b) for a, b in pairs))
