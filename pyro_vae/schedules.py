r"""Schedules: numbers that change with the training step, such as the weight of a KL term during warm-up.

:meth:`Schedule.at` returns the value at any step. The current value is a tensor on the device, so that a compiled step
reads it without being compiled again. :func:`pyro_vae.fit` advances the schedule. In your own training loop, call
``schedule.step()`` once per training step, as for torch's learning rates.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import torch
from torch import Tensor, nn

from pyro_vae.runtime.arguments import NonNegativeInteger, NonNegativeNumber, PositiveInteger, checked
from pyro_vae.runtime.kinds import Numbers

__all__ = ["Cosine", "Cyclical", "Linear", "Schedule"]


class Schedule(nn.Module):
    """A number that goes from ``start`` to ``end`` in ``num_steps`` training steps and stays there.

    A subclass defines the curve in :meth:`shape`.

    Parameters
    ----------
    num_steps
        T, the number of training steps from ``start`` to ``end``.
    start, end
        The values before the first step and after the last; finite, 0 or more.

    Raises
    ------
    ValueError
        If ``num_steps`` is not a positive integer, or an end of the schedule is negative or not finite.
    """

    value: Tensor  # the current value, of no dimension

    @checked
    def __init__(
        self, num_steps: PositiveInteger, start: NonNegativeNumber = 0.0, end: NonNegativeNumber = 1.0
    ) -> None:
        super().__init__()
        self.num_steps, self.start, self.end = num_steps, float(start), float(end)
        self.num_taken = 0
        # A float64 tensor without dimensions does not promote the float32 tensors that it multiplies.
        self.register_buffer("value", torch.tensor(self.start, dtype=torch.float64), persistent=False)

    @abstractmethod
    def shape(self, fraction: float) -> float:
        """Return the progress from ``start`` (0) to ``end`` (1) after a ``fraction`` in [0, 1) of the steps."""

    @checked
    def at(self, step: NonNegativeInteger) -> float:
        """Return the value after ``step`` training steps."""
        arrived = step >= self.num_steps
        return self.start + (self.end - self.start) * (1.0 if arrived else self._shape_at(step))

    def _shape_at(self, step: int) -> float:
        return self.shape(step / self.num_steps)

    @checked
    def set_step(self, step: NonNegativeInteger) -> None:
        """Set the current value to that after ``step`` training steps, in place."""
        self.num_taken = step
        self.value.fill_(self.at(step))

    def step(self) -> None:
        """Advance by one training step."""
        self.set_step(self.num_taken + 1)

    def extra_repr(self) -> str:
        return f"{self.num_steps}, start={self.start:g}, end={self.end:g}"


class Linear(Schedule):
    r"""A linear schedule.

    .. math:: v(t) = v_0 + (v_1 - v_0) \min(t / T, 1)

    Examples
    --------
    >>> warm_up = Linear(num_steps=4)
    >>> [warm_up.at(step) for step in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def shape(self, fraction: float) -> float:
        return fraction


class Cosine(Schedule):
    r"""Half a cosine wave, flat at both ends.

    .. math:: v(t) = v_0 + (v_1 - v_0) \, \tfrac12 \bigl(1 - \cos(\pi \min(t / T, 1))\bigr)

    Examples
    --------
    >>> [round(Cosine(num_steps=4).at(step), 3) for step in range(6)]
    [0.0, 0.146, 0.5, 0.854, 1.0, 1.0]
    """

    def shape(self, fraction: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * fraction))


class Cyclical(Schedule):
    r"""M linear warm-ups in a row: each rises during the first part R of its cycle and then stays at ``end``.

    .. math:: v(t) = v_0 + (v_1 - v_0) \min(\tau / R, 1), \qquad \tau = (M t / T) \bmod 1

    Parameters
    ----------
    num_steps
        T, the number of steps of all cycles together.
    start, end
        The values at the beginning and at the end of each rise.
    num_cycles
        M, the number of cycles.
    ramp
        R, the part of a cycle that rises, in (0, 1].

    Raises
    ------
    ValueError
        As for any schedule, and if ``num_cycles`` is not a positive integer or ``ramp`` is outside (0, 1].

    References
    ----------
    Fu, Li, Liu, Gao, Celikyilmaz and Carin, *Cyclical Annealing Schedule*, 2019, equations 6 and 7.

    Examples
    --------
    >>> [Cyclical(num_steps=8, num_cycles=2).at(step) for step in range(9)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """

    @checked
    def __init__(
        self,
        num_steps: PositiveInteger,
        start: NonNegativeNumber = 0.0,
        end: NonNegativeNumber = 1.0,
        *,
        num_cycles: PositiveInteger = 4,
        ramp: Annotated[float, Numbers("a part of a cycle, in (0, 1]", 0, 1, "low")] = 0.5,
    ) -> None:
        super().__init__(num_steps, start, end)
        self.num_cycles, self.ramp = num_cycles, ramp

    def shape(self, fraction: float) -> float:
        return min((fraction * self.num_cycles) % 1.0 / self.ramp, 1.0)

    def _shape_at(self, step: int) -> float:
        # In whole numbers: rounded fractions would end a cycle where the next one starts.
        return min(step * self.num_cycles % self.num_steps / self.num_steps / self.ramp, 1.0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_cycles={self.num_cycles}, ramp={self.ramp:g}"
