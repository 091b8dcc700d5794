"""Decisions of a run that all ranks take at once: to stop, to read the sums, to write the state.

Clocks and signals differ between ranks, and a rank that stops alone leaves the others waiting. So after each block of
steps the ranks exchange what they would do: the run stops if one of them was told to, and reads and writes when rank 0
would.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from pyro_vae.data.batches import Batches
from pyro_vae.runtime.ranks import Ranks
from pyro_vae.training.block_length import steps_in_time
from pyro_vae.training.compiled_update import CompiledUpdate
from pyro_vae.training.update import Update

__all__ = ["Decider", "Decisions"]

_SECONDS_BETWEEN_READS = 0.5


class Decisions(NamedTuple):
    """What a run does after a block of steps.

    ``num_data`` is the number of data of the block, and ``longest`` the number of steps of the next one at most.
    """

    stops: bool
    reads: bool
    writes: bool
    num_data: int
    longest: int

    def of_all(self, ranks: Ranks) -> Decisions:
        """Return the decisions of all ranks, given those of this one.

        >>> Decisions(False, True, False, num_data=100, longest=1).of_all(Ranks())
        Decisions(stops=False, reads=True, writes=False, num_data=100, longest=1)
        """
        if ranks.size == 1:
            return self
        stops, reads, writes, num_data, longest = ranks.table(self).unbind(1)
        return Decisions(bool(stops.any()), bool(reads[0]), bool(writes[0]), int(num_data.sum()), int(longest.min()))


class Decider:
    """What a run does after each block of steps.

    Parameters
    ----------
    update
        What takes the steps.
    batches
        The data that it takes them on.
    interrupted
        Set when this process is told to stop.
    seconds
        From one writing of the state to the next, ``None`` for a run without a folder.

    Attributes
    ----------
    longest
        The number of steps of the next block at most.
    """

    def __init__(
        self, update: Update | CompiledUpdate, batches: Batches, interrupted: threading.Event, seconds: float | None
    ) -> None:
        self.update, self.batches, self.interrupted, self.seconds = update, batches, interrupted, seconds
        self.longest = 1
        self._read = self._written = time.monotonic()

    def begin(self) -> None:
        """Begin an epoch."""
        self._read = time.monotonic()

    def wrote(self) -> None:
        """Say that the state has just been written."""
        self._written = time.monotonic()

    def after(self, num_steps: int, num_data: int, begun: float, careful: bool) -> Decisions:
        """Return what to do after a block of steps, which began at a time; a careful run writes nothing."""
        now, longest = time.monotonic(), self.update.longest
        ranks = self.batches.ranks
        if ranks.size > 1 and isinstance(self.update, Update) and self.batches.resident:
            longest = steps_in_time((now - begun) / num_steps)
        done = Decisions(
            stops=self.interrupted.is_set(),
            reads=now - self._read > _SECONDS_BETWEEN_READS,
            writes=not careful and self.seconds is not None and now - self._written > self.seconds,
            num_data=num_data,
            longest=1 if careful else longest,
        ).of_all(ranks)
        self.longest = done.longest
        self._read = now if done.reads else self._read
        return done
