r"""Bounds of several batches of particles: MIWAE, and PIWAE, which trains the model on a tighter bound than the guide.

A tighter bound is better for the model, and worse for the guide: the signal-to-noise ratio of the guide's gradient
falls as :math:`1/\sqrt K` in IWAE, and rises as :math:`\sqrt M` with the number of bounds that are averaged.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyro_vae.inference.particles import VectorizeParticles
from pyro_vae.objectives.gradients import Gradient
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.reductions import curvature_of, log_mean_signal, power_curvature, signal_of
from pyro_vae.runtime.arguments import PositiveInteger, checked

__all__ = ["MIWAE", "PIWAE"]


class MIWAE(Objective):
    r"""The mean of M independent importance-weighted bounds.

    .. math:: \mathrm{MIWAE}_{M,K}(x_b) = \frac1M \sum_{m=1}^M \log \frac1K \sum_{k=1}^K w_{mkb}

    M = 1 is IWAE, K = 1 the ELBO. The mean is that of IWAE with K particles, with less variance.

    Parameters
    ----------
    num_batches
        M.
    num_particles
        K; M K latents are drawn for each datum.
    gradient, max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If a count is not a positive integer, or ``gradient`` is unknown.

    References
    ----------
    Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, *Tighter Variational Bounds are Not Necessarily Better*, 2018,
    equation 8.

    Examples
    --------
    >>> import torch
    >>> MIWAE(num_batches=2, num_particles=2).reduce(torch.tensor([[0.0], [math.log(3.0)], [0.0], [0.0]]))
    tensor([0.3466])
    """

    @checked
    def __init__(
        self,
        num_batches: PositiveInteger,
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
        self.num_batches = num_batches

    def arguments(self) -> dict[str, Any]:
        return {"num_batches": self.num_batches}

    @property
    def total_particles(self) -> int:
        return self.num_batches * self.num_particles

    def reduce(self, log_w: Tensor) -> Tensor:
        return (self._batches(log_w).logsumexp(0) - math.log(self.num_particles)).mean(0)

    @signal_of(reduce)
    def _signal(self, log_w: Tensor, others: Tensor) -> Tensor:
        signal = log_mean_signal(self._batches(log_w), self._batches(others))
        return signal.transpose(0, 1).flatten(0, 1) / self.num_batches

    @curvature_of(reduce)
    def _curvature(self, log_w: Tensor) -> Tensor:
        return power_curvature(self._batches(log_w)).transpose(0, 1).flatten(0, 1) / self.num_batches

    def _batches(self, log_w: Tensor) -> Tensor:
        """Return log weights ``(M K, B)`` as those of M batches, ``(K, M, B)``."""
        return log_w.unflatten(0, (self.num_batches, self.num_particles)).transpose(0, 1)


class PIWAE(MIWAE):
    r"""IWAE of all M K particles for the model, MIWAE of M batches of K for the guide.

    .. math:: \nabla_\theta \log \frac1{MK} \sum_{m,k} w_{mkb}, \qquad
              \nabla_\phi \frac1M \sum_m \log \frac1K \sum_k w_{mkb}

    It reports the first of the two bounds.

    Parameters
    ----------
    num_batches, num_particles, gradient, max_plate_nesting, vectorize_particles
        As for :class:`MIWAE`.

    Raises
    ------
    ValueError
        If a count is not a positive integer, or ``gradient`` is unknown.

    References
    ----------
    Rainforth et al., *Tighter Variational Bounds are Not Necessarily Better*, 2018, equation 10.

    Examples
    --------
    >>> import torch
    >>> PIWAE(num_batches=2, num_particles=1).reduce(torch.tensor([[0.0], [math.log(3.0)]]))
    tensor([0.6931])
    """

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.logsumexp(0) - math.log(len(log_w))

    def reduce_for_guide(self, log_w: Tensor) -> Tensor:
        return super().reduce(log_w)

    signal_of(reduce_for_guide)(MIWAE._signal)
    curvature_of(reduce_for_guide)(MIWAE._curvature)
