"""What changes from step to step of a run: the learning rates, and the schedules of its programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pyro_vae.data.batches import Batches
from pyro_vae.schedules import Schedule
from pyro_vae.training.optimizers import rate_at
from pyro_vae.training.run_state import RunState

__all__ = ["RunSchedule", "capacity_of", "run_schedule"]


class RunSchedule:
    """The learning rates and the values of schedules, of the next step and of those ahead of it.

    Parameters
    ----------
    optimizer
        Its groups hold the rates.
    schedules
        Those that the programs and the objective read.
    lr
        A function from the fraction of training done to the rate of all groups; ``None`` leaves the rates alone.
    step, fraction
        Tell, of a number of steps ahead, which step of the run that is and the fraction of training done by then.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedules: Sequence[Schedule] = (),
        lr: Callable[[float], float] | None = None,
        step: Callable[[int], int] = int,
        fraction: Callable[[int], float] = float,
    ) -> None:
        self.optimizer, self.schedules, self.lr, self.step, self.fraction = optimizer, schedules, lr, step, fraction

    def rates(self, ahead: int) -> list[float]:
        """Return the learning rate of each group in a step.

        Raises
        ------
        ValueError
            If the function gives one that is negative or not finite.
        """
        if self.lr is not None:
            return [rate_at(self.lr, self.fraction(ahead))] * len(self.optimizer.param_groups)
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def values(self, ahead: int) -> list[float]:
        """Return the value of each schedule in a step."""
        step = self.step(ahead)
        return [schedule.at(step) for schedule in self.schedules]

    def set(self, ahead: int) -> None:
        """Set the rates and the schedules to those of a step."""
        if self.lr is not None:
            for group, rate in zip(self.optimizer.param_groups, self.rates(ahead), strict=True):
                group["lr"] = rate
        for schedule in self.schedules:
            schedule.set_step(self.step(ahead))


def run_schedule(
    state: RunState, batches: Batches, num_epochs: int, schedules: Sequence[Schedule], lr: object
) -> RunSchedule:
    """Return the schedule of a run of so many epochs; ``lr`` is a number, or a function of the part of them done.

    That part is in [0, 1), and goes by whole epochs where the data have no length.
    """

    def fraction(ahead: int) -> float:
        try:
            num_steps = len(batches)
        except TypeError:
            return state.epoch / num_epochs
        return (state.epoch + (state.epoch_step + ahead) / max(num_steps, 1)) / num_epochs

    rate = lr if callable(lr) else None
    return RunSchedule(state.optimizer, schedules, rate, lambda ahead: state.step + ahead, fraction)


def capacity_of(objective: object) -> dict[str, float]:
    """Return the capacity of an objective as an entry of a record; none if it has none."""
    capacity = getattr(objective, "capacity", None)
    value = capacity.value.item() if isinstance(capacity, Schedule) else capacity
    return {} if value is None else {"capacity": value}
