"""The bound of validation data after each epoch.

It is taken on the same draws at every epoch, with the schedules at their end, so that epochs differ by their weights
alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyro_vae.compilation.compiled import Outputs
from pyro_vae.data.batch import Batch
from pyro_vae.data.batches import Batches
from pyro_vae.evaluation.bounds import mean_estimate
from pyro_vae.schedules import Schedule

__all__ = ["Interrupted", "Validation"]


class Interrupted(Exception):
    """The run was told to stop while it validated."""


@dataclass
class Validation:
    """The mean bounds of validation data, true and as maximised.

    ``summed`` is :func:`~pyro_vae.evaluation.bounds.summed_bounds` of the pair, or that compiled. ``Interrupted`` is
    raised between two batches when ``interrupted`` is set.
    """

    model: nn.Module
    guide: nn.Module
    objective: Any  # a Pyro ELBO
    schedules: list[Schedule]
    summed: Callable[[Batch], Outputs]
    interrupted: threading.Event

    def __call__(self, valid: Batches) -> tuple[float, float]:
        """Return the mean of the true bound, and of what the objective maximises; nats per datum."""
        with self._schedules_at_their_end():
            return mean_estimate(
                self.model, self.guide, valid, self.objective, seed=0, summed=self._summed, name="valid"
            )

    def _summed(self, x: Batch) -> Outputs:
        if self.interrupted.is_set():
            raise Interrupted
        return self.summed(x)

    @contextmanager
    def _schedules_at_their_end(self) -> Iterator[None]:
        steps = [schedule.num_taken for schedule in self.schedules]
        try:
            for schedule in self.schedules:
                schedule.set_step(schedule.num_steps)
            yield
        finally:
            for schedule, step in zip(self.schedules, steps, strict=True):
                schedule.set_step(step)
