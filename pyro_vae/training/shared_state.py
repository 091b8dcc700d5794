"""The state of a run whose batches ranks share.

Rank 0 has the state of a run by one process: it reads and writes the files, and draws the order of the data. What is
its own on each rank are the draws and the sums of an epoch under way. At the beginning of an epoch all ranks take the
generators of rank 0. When the order is drawn from them, every other rank goes on with a seed made from their state and
its number. So a run may go on with another number of ranks, in the same order of the data; with as many, it goes on bit
by bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.batches import Batches, Pick
from pyro_vae.data.shares import check_order
from pyro_vae.runtime.ranks import Ranks
from pyro_vae.runtime.state import generators, set_generators
from pyro_vae.training.checkpoint import WEIGHTS
from pyro_vae.training.modules import recipe_of, warn_of_own_parts
from pyro_vae.training.plain import named
from pyro_vae.training.run_state import FILE, RunState
from pyro_vae.training.state_check import refuse_another

__all__ = ["SharedRunState", "make_state"]


class SharedRunState(RunState):
    """The state of a run, on one of several ranks; its methods are called on all of them."""

    ranks: Ranks

    def __init__(self, ranks: Ranks, *args: Any) -> None:
        self.ranks = ranks
        self._of_ranks: dict[str, Tensor] = {}  # generators, from a file
        super().__init__(*args)

    def remaining(self, batches: Batches) -> Iterator[Pick]:
        """Yield this rank's shares of what is left of the epoch, in the order that rank 0 draws."""
        if self.epoch_step == 0:
            self._set_generators(self.ranks.first(self._generators))
        yield from super().remaining(batches)
        check_order(batches._loader, batches._entries.name, self.ranks)

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep the epoch's record and move on to the next; all ranks go on with the generators of rank 0."""
        super().end_epoch(record)
        self._set_generators(self.ranks.first(self._generators))

    def mean_bounds(self) -> list[float]:
        """Return the mean bounds of the epoch so far, over all ranks."""
        *sums, count = self._totals().tolist()
        return [total / count for total in sums]

    def write(self, folder: Path) -> None:
        """Write the state of all ranks, by rank 0; an error is raised on all of them."""
        tensors, document = self.snapshot()
        states = self.ranks.gather({name: state.cpu() for name, state in generators(self.device).items()})
        tensors |= {f"rank.{rank}.{name}": each for rank, own in enumerate(states) for name, each in own.items()}
        totals = self._totals()
        tensors["bounds"], document["position"]["count"] = totals[:2].clone(), int(totals[2])
        self.ranks.first(lambda: self._write(folder, tensors, document))

    def open(self, folder: Path | None, resume: bool, facts: dict[str, Any], keep_rates: bool = False) -> None:
        """Start or take up a run as rank 0 finds it in its folder; an error is raised on all ranks."""
        self.facts, take_up = facts, super().open
        if resume:
            self.ranks.first(lambda: take_up(folder, True, facts, keep_rates))
        elif folder is not None:
            self.ranks.first(lambda: self._begin_in(folder))
        self._share()
        if folder is not None and not resume:
            self.write(folder)

    def _begin_in(self, folder: Path) -> None:
        recipe = recipe_of(self.module)
        refuse_another(folder / FILE, folder / WEIGHTS)
        warn_of_own_parts(self.module, recipe, stacklevel=7)

    def _share(self) -> None:
        """Take the state of rank 0, with generators of this rank's own."""
        tensors, document = self.ranks.first(self._of_first)
        if self.ranks.is_first:
            return
        self.restore(tensors, document)
        self.bounds.zero_()
        self.count = 0
        as_many = [f"rank.{size - 1}.cpu" in tensors for size in (self.ranks.size, self.ranks.size + 1)]
        if self.epoch_step and as_many == [True, False]:
            set_generators(named(tensors, f"rank.{self.ranks.rank}."), self.device)
        elif self.epoch_step:
            self._draw_apart()

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        super().restore(tensors, document)
        self._of_ranks = {name: state for name, state in tensors.items() if name.startswith("rank.")}

    def _of_first(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, document = self.snapshot()
        return {name: tensor.cpu() for name, tensor in (tensors | self._of_ranks).items()}, document

    def _totals(self) -> Tensor:
        """Return the sums of both bounds, and the number of data, over all ranks, ``(3,)``."""
        return self.ranks.sum_(torch.cat([self.bounds, self.bounds.new_tensor([float(self.count)])]))

    def _draw_apart(self) -> None:
        """Seed the generators of a rank that is not the first by the epoch's, its number and the step."""
        if self.ranks.is_first:
            return
        state = self.epoch_generators["cpu"].cpu().numpy().tobytes()
        digest = hashlib.sha256(state + f"{self.ranks.rank}/{self.epoch_step}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)


def make_state(ranks: Ranks, *args: Any) -> RunState:
    """Return the state of a run on one or more ranks; the arguments are those of :class:`RunState`."""
    return RunState(*args) if ranks.size == 1 else SharedRunState(ranks, *args)
