"""The batches of an estimate, shared among the ranks of a process group.

Each batch, and each chunk of particles of it, is estimated on draws of a seed of its own, made from the seed of the
whole and its place. So an estimate is the same, whoever makes which part of it. Ranks share the batches; where there
are fewer batches than ranks, they share the chunks of each batch, if its work is in chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from pyro_vae.data.batches import Batches
from pyro_vae.data.same_calls import refuse_other_calls
from pyro_vae.data.shares import check_order, share_generators, sharing_loader, warn_of_another, yields_unasked
from pyro_vae.runtime.ranks import ranks
from pyro_vae.runtime.state import seeded

__all__ = ["SharedWork", "reseed"]

_T = TypeVar("_T")


class SharedWork:
    """What this rank does of the work on some batches.

    Parameters
    ----------
    batches
        The same ones on all ranks.
    seed
        Of all draws; ``None`` draws one from torch's generator.
    programs
        The model and the guide.
    has_chunks
        Whether the work on a batch is in chunks that ranks can share.
    call
        What else has to be the same on all ranks.

    Attributes
    ----------
    seed
        The seed of the whole, on all ranks.
    index
        The number of the batch under way.
    """

    def __init__(
        self, batches: Batches, seed: int | None, programs: Sequence[Any] = (), has_chunks: bool = True, **call: Any
    ) -> None:
        self._batches, self.ranks = batches, ranks()
        refuse_other_calls(self.ranks, call, (batches,), programs)
        self._before = torch.get_rng_state()
        drawn = int(torch.randint(2**63 - 1, ())) if seed is None else seed  # on all, so that they go on alike
        self.seed = self.ranks.first(lambda: drawn)
        self.index = 0
        self._share_order()
        source: Any = batches._source
        self._is_stream = not batches.resident and self.ranks.size > 1 and yields_unasked(source)
        try:
            self.shares_batches = not has_chunks or self.ranks.size == 1 or len(batches) >= self.ranks.size
        except TypeError:  # of unknown length
            self.shares_batches = True

    def _share_order(self) -> None:
        """Let the loader of each rank draw its order from the generators of rank 0, and watch that order."""
        batches, source = self._batches, self._batches._source
        if self.ranks.size > 1 and isinstance(source, DataLoader):
            share_generators(source, self.ranks)
            loader = sharing_loader(source, batches.ranks, is_watched=True)
            if loader is not source:
                batches._loader, batches._begun = loader, None

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Give the generators back after a block; if it fails, as they were before a seed was drawn."""
        try:
            with seeded(self.seed, self._batches.device):
                yield
        except BaseException:
            torch.set_rng_state(self._before)
            raise

    def num(self) -> int | None:
        """Return the number of batches that this rank works on, ``None`` where it is not known."""
        try:
            number = len(self._batches)
        except TypeError:
            return None
        return len(range(self.ranks.rank, number, self.ranks.size)) if self.shares_batches else number

    def batches(self) -> Iterator[Any]:
        """Yield the batches that this rank works on, with the generators seeded for each."""
        number = 0
        for index, pick in enumerate(self._batches.picks()):
            number = index + 1
            if index == 0 and self._is_stream:
                warn_of_another(pick, self._batches._entries.name, self.ranks)
            if self.shares_batches and index % self.ranks.size != self.ranks.rank:
                continue
            self.index = index
            reseed(self.seed, index, device=self._batches.device)
            yield self._batches.read(pick)
        if not self._batches.resident and len(set(found := self.ranks.gather(number))) > 1:
            raise ValueError(
                f"{self._batches._entries.name}: found {found} batches on {self.ranks.size} ranks, expected as many on "
                "all; they share the batches"
            )
        check_order(self._batches._loader, self._batches._entries.name, self.ranks)

    def chunks(self, chunks: Iterable[_T]) -> Iterator[_T]:
        """Yield the chunks of a batch that this rank works on, with the generators seeded for each."""
        for place, chunk in enumerate(chunks):
            if self.shares_batches or place % self.ranks.size == self.ranks.rank:
                reseed(self.seed, self.index, place, device=self._batches.device)
                yield chunk

    def least(self, size: int) -> int:
        """Return the least of a size that each rank has chosen, such as by the memory of its device."""
        return min(self.ranks.gather(size))

    def of_batch(self, part: _T) -> list[_T]:
        """Return what all ranks that share the chunks of a batch have made of it."""
        return [part] if self.shares_batches else self.ranks.gather(part)

    def of_all(self, parts: list[_T]) -> list[_T]:
        """Return the parts of all batches, in order, given those of the ones that this rank worked on."""
        if self.ranks.size == 1 or not self.shares_batches:
            return parts
        gathered = self.ranks.gather(parts)
        number = sum(map(len, gathered))
        return [gathered[index % self.ranks.size][index // self.ranks.size] for index in range(number)]


def reseed(seed: int, *place: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of a device for a part of an estimate: a batch, or a chunk of one."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    own = int.from_bytes(digest[:8], "big") >> 1
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(own)
