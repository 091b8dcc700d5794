r"""The temperatures of an annealed run: how β rises from 0 to 1 in T steps.

.. math::

   \text{linear: } & \beta_t = \frac tT \\
   \text{geometric: } & \beta_t = \frac{r^{t/T} - 1}{r - 1}, \qquad r = 1000 \\
   \text{sigmoid: } & \beta_t = \frac{\sigma_t - \sigma_0}{\sigma_T - \sigma_0}, \qquad
   \sigma_t = \frac{1}{1 + e^{-4 (2 t / T - 1)}}

Increments of the geometric schedule form a geometric series, whose last member is about r times its first: it is slow
where a prior meets the data. The sigmoid one is slow at both ends.

Neal, *Annealed Importance Sampling*, 2001; Wu, Burda, Salakhutdinov and Grosse, *On the Quantitative Analysis of
Decoder-Based Generative Models*, 2017.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Schedule", "temperatures"]

Schedule = Literal["linear", "geometric", "sigmoid"]
_RATIO, _SLOPE = 1000.0, 4.0


def temperatures(schedule: Schedule, num_temperatures: int) -> Tensor:
    """Return the T + 1 values of β, from 0 to 1, in float64.

    >>> temperatures("linear", 4)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    t = torch.arange(num_temperatures + 1, dtype=torch.float64) / num_temperatures
    if schedule == "linear":
        return t
    if schedule == "geometric":
        return (_RATIO**t - 1) / (_RATIO - 1)
    rising = torch.sigmoid(_SLOPE * (2 * t - 1))
    return (rising - rising[0]) / (rising[-1] - rising[0])
