r"""One annealed run: particles that are moved from one end of a path of densities to the other, and their weights.

The densities :math:`f_\beta = p_0 w^\beta` of :mod:`pyro_vae.evaluation.hamiltonian` lead from a normalised one,
:math:`f_0`, to :math:`f_1`, whose integral is p(x). Along β's that rise from 0 to 1,

.. math:: \log W = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log w(\epsilon_{t-1}), \qquad
          \epsilon_0 \sim f_0, \quad \epsilon_t \sim T_t(\epsilon_{t-1}),

where :math:`T_t` leaves :math:`f_{\beta_t}` as it is. Then :math:`\mathbb{E}[W] = p(x)`, however badly the transitions
mix (Neal 2001). Started from an exact draw of :math:`f_1`, the same steps backwards give :math:`\mathbb{E}[W] = 1 /
p(x)` (Grosse, Ghahramani and Adams 2015).

Both need transitions that do not depend on how the particles fare. So the sizes of their steps are found before, by a
pilot run whose particles are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.evaluation.hamiltonian import Evaluate, transition
from pyro_vae.inference.noise_space import Point

__all__ = ["anneal", "pilot"]

_TARGET = 0.7  # of the acceptance
_GAIN = 0.3  # by how much a step grows or shrinks
_WARM_UP = 20


def anneal(
    point: Point,
    evaluate: Evaluate,
    betas: Tensor,
    step_sizes: Tensor,
    num_steps: int,
    tick: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Move particles along the temperatures.

    Parameters
    ----------
    point
        K particles of B data, drawn from the density of the first temperature.
    evaluate
        Returns the point at any noise ``(K, B, D)``.
    betas
        The temperatures ``(T + 1,)``, rising or falling.
    step_sizes
        The size of a leapfrog step at each of them, ``(T + 1, B)``.
    num_steps
        The number of leapfrog steps of a transition.
    tick
        Called after each temperature.

    Returns
    -------
    tuple
        The log weights ``(K, B)`` in float64, and the mean acceptance of each datum ``(B,)``, NaN if T = 1.
    """
    log_weight = torch.zeros_like(point.log_w, dtype=torch.float64)
    accepted = torch.zeros_like(log_weight[0])
    rise = betas.diff().tolist()
    for t, beta in enumerate(betas[1:].tolist(), 1):
        log_weight = log_weight + rise[t - 1] * point.log_w.double()
        if t < len(rise):
            point, probability = transition(point, evaluate, beta, step_sizes[t], num_steps)
            accepted = accepted + probability.mean(0)
        tick()
    return log_weight, accepted / (len(rise) - 1)


def pilot(
    point: Point, evaluate: Evaluate, betas: Tensor, num_steps: int, tick: Callable[[], object] = lambda: None
) -> Tensor:
    """Find the size of a leapfrog step for each datum at each temperature, ``(T + 1, B)``.

    A step grows where more than 70 % of the proposals are accepted and shrinks where fewer are.
    """
    log_size = torch.full_like(point.noise[0, :, 0], -1.0)
    sizes = []
    for t, beta in enumerate(betas.tolist()):
        for _ in range(_WARM_UP if t == 0 else 1):
            point, probability = transition(point, evaluate, beta, log_size.exp(), num_steps)
            log_size = log_size + _GAIN * (probability.mean(0).to(log_size) - _TARGET)
        sizes.append(log_size)
        tick()
    return torch.stack(sizes).exp()
