r"""The importance-weighted bound.

.. math:: \mathcal{L}_K(x) = \mathbb{E}\Bigl[\log \frac1K \sum_k w_k\Bigr], \qquad
          \mathcal{L}_1 = \mathrm{ELBO} \le \mathcal{L}_K \le \mathcal{L}_{K+1} \le \log p(x)
"""

from __future__ import annotations

import math

from torch import Tensor

from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.reductions import curvature_of, log_mean_signal, power_curvature, signal_of

__all__ = ["IWAE"]


class IWAE(Objective):
    r"""The log of the mean weight.

    .. math:: \mathrm{IWAE}_K(x_b) = \log \frac1K \sum_k w_{kb}

    Parameters
    ----------
    num_particles
        K; the bound tightens as it grows.
    gradient, max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If a count is not a positive integer, or ``gradient`` is unknown.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015, equation 8.

    Examples
    --------
    >>> import torch
    >>> IWAE(num_particles=2).reduce(torch.tensor([[0.0], [math.log(3.0)]]))  # log of the mean of 1 and 3
    tensor([0.6931])
    """

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.logsumexp(0) - math.log(len(log_w))

    @signal_of(reduce)
    def _signal(self, log_w: Tensor, others: Tensor) -> Tensor:
        return log_mean_signal(log_w, others)

    @curvature_of(reduce)
    def _curvature(self, log_w: Tensor) -> Tensor:
        return power_curvature(log_w)
