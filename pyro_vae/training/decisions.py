"""Decisions of a run that all ranks take at once: to stop, to read the sums, to write the state.

Clocks and signals differ between ranks, and a rank that stops alone leaves the others waiting. So after each block of
steps the ranks exchange what they would do: the run stops if one of them was told to, and reads and writes when rank 0
would.
"""

from __future__ import annotations

from typing import NamedTuple

from pyro_vae.runtime.ranks import Ranks

__all__ = ["Decisions"]


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
        return Decisions(
            bool(stops.any()), bool(reads[0]), bool(writes[0]), int(num_data.sum()), int(longest.min())
        )
