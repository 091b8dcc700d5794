r"""The variational Rényi bound, which rises from the ELBO to log p(x) and beyond as α falls.

.. math:: \mathcal{L}_\alpha(x) = \frac{1}{1 - \alpha} \log \mathbb{E}_q\bigl[w^{1 - \alpha}\bigr], \qquad
          \mathcal{L}_1 = \mathrm{ELBO}, \quad \mathcal{L}_0 = \log p(x)

It decreases in α and is a lower bound of log p(x) only for α ≥ 0. With K particles, α = 0 is IWAE and α → -∞ keeps only
the largest weight.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vae.inference.particles import VectorizeParticles
from pyro_vae.objectives.gradients import Gradient
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.reductions import curvature_of, log_mean_signal, mean_signal, power_curvature, signal_of
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.kinds import Numbers

__all__ = ["RenyiBound"]


class RenyiBound(Objective):
    r"""The logarithm of the power mean of K weights.

    .. math:: \mathcal{L}_{\alpha,K}(x_b) = \frac{1}{1 - \alpha} \log \frac1K \sum_k w_{kb}^{1 - \alpha}

    Parameters
    ----------
    alpha
        α: 1 for the ELBO, 0 for IWAE, ``-math.inf`` for the largest weight (VR-max), ``math.inf`` for the smallest.
        Below 0 the estimate can exceed log p(x).
    num_particles
        K. The mean of the estimate rises with K for α < 1, and falls for α > 1.
    gradient, max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If ``alpha`` is not a number, a count is not a positive integer or ``gradient`` is unknown. If ``alpha`` is
        infinite with ``gradient="dreg"``, which needs a smooth bound.

    References
    ----------
    Li and Turner, *Rényi Divergence Variational Inference*, 2016, equations 4 and 11.

    Examples
    --------
    >>> log_w = torch.tensor([[0.0], [math.log(3.0)]])
    >>> [round(RenyiBound(alpha, 2).reduce(log_w).item(), 4) for alpha in (1.0, 0.5, 0.0, -math.inf)]
    [0.5493, 0.6238, 0.6931, 1.0986]
    """

    @checked
    def __init__(
        self,
        alpha: Annotated[float, Numbers("a number, math.inf and -math.inf included")],
        num_particles: PositiveInteger,
        *,
        gradient: Gradient = "reparam",
        max_plate_nesting: PositiveInteger = 1,
        vectorize_particles: VectorizeParticles = "auto",
    ) -> None:
        super().__init__(
            num_particles,
            gradient=gradient,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
        )
        if math.isinf(alpha) and gradient == "dreg":
            raise ValueError(f"gradient: found 'dreg' beside alpha={alpha}, expected a finite alpha: no smooth bound")
        self.alpha = alpha

    def arguments(self) -> dict[str, Any]:
        return {"alpha": self.alpha}

    def reduce(self, log_w: Tensor) -> Tensor:
        if math.isinf(self.alpha):
            return log_w.max(0).values if self.alpha < 0 else log_w.min(0).values
        power = 1 - self.alpha
        if power == 0:
            return log_w.mean(0)
        finite = log_w.detach().isfinite()
        center = torch.where(finite, log_w.detach(), 0.0).sum(0) / finite.sum(0).clamp(min=1)  # cancels from the bound
        # as α → 1 the leading terms cancel and logsumexp loses its digits; expm1 and log1p keep them
        scaled = power * (log_w - center)  # (K, B)
        is_small = scaled.detach().abs().amax(0) < 1
        small = torch.where(is_small, scaled, 0.0).expm1().mean(0).log1p()
        large = scaled.logsumexp(0) - math.log(len(log_w))
        return center + torch.where(is_small, small, large) / power

    @signal_of(reduce)
    def _signal(self, log_w: Tensor, others: Tensor) -> Tensor:
        if math.isinf(self.alpha):
            sign = -math.copysign(1, self.alpha)  # the smallest is minus the largest of the negatives
            return sign * _largest_signal(sign * log_w, sign * others)
        return mean_signal(log_w, others) if self.alpha == 1 else log_mean_signal(log_w, others, 1 - self.alpha)

    @curvature_of(reduce)
    def _curvature(self, log_w: Tensor) -> Tensor:
        return power_curvature(log_w, 1 - self.alpha)


def _largest_signal(log_w: Tensor, others: Tensor) -> Tensor:
    """Return the changes ``(K, B)`` of the largest log weight."""
    largest, second = log_w.topk(2, dim=0).values
    itself = torch.arange(len(log_w), device=log_w.device)[:, None] == log_w.argmax(0)
    return largest - torch.where(itself, second, largest).maximum(others)
