"""How many steps a block has: as many as take a tenth of a second, for so long does Ctrl-C wait."""

from __future__ import annotations

import time

import torch

__all__ = ["LONGEST", "BlockLength", "steps_in_time"]

LONGEST = 64  # steps in a block
_SECONDS = 0.1  # that a block may take
_NUM_TIMED = 3  # blocks that are waited for on a GPU, to know how long a step takes


def steps_in_time(seconds: float) -> int:
    """Return the number of steps of a block, given the seconds of a step.

    >>> steps_in_time(0.02), steps_in_time(1.0), steps_in_time(1e-6)
    (5, 1, 64)
    """
    return min(max(int(_SECONDS / max(seconds, 1e-9)), 1), LONGEST)


class BlockLength:
    """The number of steps of the next block, by the fastest so far; blocks begin with one step.

    Parameters
    ----------
    device
        Where the steps run. A GPU is waited for in the first blocks only.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Begin anew with one step, whose time is not known."""
        self.number, self._num_blocks, self._seconds = 1, 0, float("inf")
        self._end: float | None = None  # of the last block

    def ended(self, num_steps: int, started: float, is_read: bool = False) -> None:
        """Count a block that began at a time of ``time.perf_counter``; where it is read, when the last one ended."""
        before, self._end = self._end, time.perf_counter()
        if is_read and before is None:
            return
        started = before if is_read and before is not None else started
        self._num_blocks += 1
        is_cuda = self.device.type == "cuda"
        if is_cuda and not 1 < self._num_blocks <= _NUM_TIMED:  # the first one warms up
            return
        if is_cuda:
            torch.cuda.synchronize(self.device)
        self._seconds = min(self._seconds, (time.perf_counter() - started) / num_steps)
        self.number = steps_in_time(self._seconds)
