r"""The combination of the ELBO and the importance-weighted bound.

The ELBO keeps the signal in the guide's gradient, which IWAE loses as K grows; see :mod:`pyro_vae.objectives.miwae`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from torch import Tensor

from pyro_vae.inference.particles import VectorizeParticles
from pyro_vae.objectives.gradients import Gradient
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.reductions import curvature_of, log_mean_signal, mean_signal, power_curvature, signal_of
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.kinds import Numbers

__all__ = ["CIWAE"]


class CIWAE(Objective):
    r"""A convex combination of the ELBO and IWAE, from the same particles.

    .. math:: \mathrm{CIWAE}_{\beta,K}(x_b) = \beta\, \frac1K \sum_k \log w_{kb}
              + (1 - \beta) \log \frac1K \sum_k w_{kb}

    Parameters
    ----------
    beta
        β in [0, 1]: 0 is IWAE, 1 the ELBO.
    num_particles
        K.
    gradient, max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If ``beta`` is outside [0, 1], a count is not a positive integer, or ``gradient`` is unknown.

    References
    ----------
    Rainforth et al., *Tighter Variational Bounds are Not Necessarily Better*, 2018, equation 9.

    Examples
    --------
    >>> import torch
    >>> CIWAE(beta=0.5, num_particles=2).reduce(torch.tensor([[0.0], [math.log(3.0)]]))  # of 0.5493 and 0.6931
    tensor([0.6212])
    """

    @checked
    def __init__(
        self,
        beta: Annotated[float, Numbers("a number in [0, 1]", 0, 1)],
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
        self.beta = beta

    def arguments(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def reduce(self, log_w: Tensor) -> Tensor:
        iwae = log_w.logsumexp(0) - math.log(len(log_w))
        if self.beta == 0:  # 0 * mean is NaN where a weight is zero
            return iwae
        return self.beta * log_w.mean(0) + (1 - self.beta) * iwae

    @signal_of(reduce)
    def _signal(self, log_w: Tensor, others: Tensor) -> Tensor:
        iwae = log_mean_signal(log_w, others)
        if self.beta == 0:
            return iwae
        return self.beta * mean_signal(log_w, others) + (1 - self.beta) * iwae

    @curvature_of(reduce)
    def _curvature(self, log_w: Tensor) -> Tensor:
        return (1 - self.beta) * power_curvature(log_w)
