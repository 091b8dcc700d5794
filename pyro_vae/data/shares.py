r"""Shares of a batch: each rank of a process group takes its rows of every batch.

A batch of B data is cut into as many shares as there are ranks, of :math:`B_r` data. All ranks draw the same order of
the data, so that no datum is in two shares, and

.. math:: \sum_b \nabla \mathrm{loss}(x_b) = \sum_r \sum_{b \in r} \nabla \mathrm{loss}(x_b) .

Where a last batch has fewer data than there are ranks, some have an empty share. They run on the batch's first datum,
which counts as none.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from pyro_vae.data.batch import Batch
from pyro_vae.data.loaders import own_generators
from pyro_vae.runtime.digests import digest_of_rows
from pyro_vae.runtime.ranks import Ranks

__all__ = [
    "Part",
    "Share",
    "ShareSampler",
    "check_order",
    "in_step",
    "once",
    "rows_of",
    "share_generators",
    "share_next",
    "share_of",
    "sharing_loader",
    "warn_of_another",
    "yields_unasked",
]

_END = object()
_KNOWN = ("torch.", "pyro_vae.")  # whose samplers draw as many data as they say


class Part(NamedTuple):
    """A share that stands alone, for the batch of which it is one is the last, or may be."""

    rows: Batch | slice  # or the data themselves
    num_data: int  # that count: 0 for an empty share


class Share(NamedTuple):
    """A rank's share of a batch: its rows, how many of them count, and how many data the batch has."""

    rows: slice
    num_data: int
    whole: int


def share_of(num: int, ranks: Ranks) -> Share:
    """Return a rank's share of a batch of so many data."""
    rows = ranks.share(num)
    return Share(rows, rows.stop - rows.start, num) if rows.stop > rows.start else Share(slice(0, 1), 0, num)


def rows_of(rows: Tensor | slice, batch_size: int, num_data: int, ranks: Ranks) -> Tensor | slice | Part:
    """Return a rank's share of the rows of a batch: a tensor for a whole batch of shuffled data, otherwise a part."""
    if ranks.size == 1:
        return rows
    if isinstance(rows, slice):
        stop = min(rows.stop, num_data)
        share, number, _ = share_of(stop - rows.start, ranks)
        return Part(slice(rows.start + share.start, rows.start + share.stop), number)
    share, number, _ = share_of(len(rows), ranks)
    return rows[share] if len(rows) == batch_size else Part(rows[share], number)


def share_next(x: Batch, loader: Any, ranks: Ranks, is_kept: bool = False) -> tuple[Batch, Share]:
    """Return the next batch of a loader, cut to a rank's share if it is whole, and that share.

    One that ``is_kept`` will be asked for again.
    """
    if isinstance(sampler := loader.batch_sampler, ShareSampler):
        return x, sampler.shares[0] if is_kept else sampler.shares.popleft()
    share = share_of(len(x), ranks)
    return x if ranks.size == 1 else x[share.rows], share


def once(call: Callable[[], None] | None) -> Callable[[], None]:
    """Return a function that calls another one, if there is one, the first time that it is called."""
    calls = [] if call is None else [call]

    def call_once() -> None:
        while calls:
            calls.pop()()

    return call_once


class ShareSampler:
    """The share of a rank of each batch of indices that a loader's own sampler draws.

    ``shares`` holds the shares, in order, that were not asked for yet. ``drawn`` is called once in the next pass, when
    its order is drawn and nothing is read.
    """

    def __init__(self, batches: Any, ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks
        self.shares: deque[Share] = deque()
        self.drawn: Callable[[], None] | None = None
        self.order = hashlib.sha256()  # of the indices so far

    @property
    def sampler(self) -> Any:
        """The sampler of single data."""
        return getattr(self.batches, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        self.shares.clear()
        self.order = hashlib.sha256()
        drawn, self.drawn = once(self.drawn), None
        for indices in self.batches:
            drawn()
            self.order.update(repr([*indices]).encode())
            self.shares.append(share_of(len(indices), self.ranks))
            yield indices[self.shares[-1].rows]

    def __len__(self) -> int:
        return len(self.batches)


def sharing_loader(loader: DataLoader[Any], ranks: Ranks, is_watched: bool = False) -> DataLoader[Any]:
    """Return a loader of a rank's shares of the same batches, or the same loader if it yields batches unasked.

    A single rank has the same loader, unless the order that it draws is to be watched for :func:`check_order`.

    Raises
    ------
    ValueError
        For a loader whose sampler shares the data already.
    """
    if ranks.size == 1 and not is_watched:
        return loader
    if isinstance(loader.sampler, DistributedSampler):
        raise ValueError(
            "data: found a DataLoader with a DistributedSampler, expected one of all data: each batch is shared "
            "among the ranks here"
        )
    if loader.batch_sampler is None or yields_unasked(loader):
        return loader
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "multiprocessing_context", "generator",
             "prefetch_factor", "persistent_workers", "pin_memory_device")  # fmt: skip
    options = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    options["worker_init_fn"] = _Apart(loader.worker_init_fn, ranks.rank)
    return DataLoader(loader.dataset, batch_sampler=ShareSampler(loader.batch_sampler, ranks), **options)


def yields_unasked(loader: DataLoader[Any]) -> bool:
    """Return whether a loader yields batches in its own way, and not those that its sampler asks for."""
    return isinstance(loader.dataset, IterableDataset) or type(loader).__iter__ is not DataLoader.__iter__


def in_step(batches: Iterator[Any], loader: Any, name: str, ranks: Ranks) -> Iterator[Any]:
    """Yield the batches of a pass through a loader as long as all ranks have one more.

    Nothing is sent for a loader of torch's own samplers, whose length tells. Streams are warned of if their first batch
    is another one on each rank.

    Raises
    ------
    ValueError
        On all ranks, if some have come to an end and others have not.
    """
    samplers = [each for each in (loader.sampler, loader.batch_sampler) if each is not None]
    is_stream = yields_unasked(loader)
    if ranks.size == 1 or not (is_stream or any(not type(each).__module__.startswith(_KNOWN) for each in samplers)):
        yield from batches
        return
    for number in count():
        batch = next(batches, _END)
        ended = ranks.table([batch is _END])[:, 0].bool()
        if ended.any() and not ended.all():
            those = ", ".join(map(str, ended.nonzero()[:, 0].tolist()))
            raise ValueError(
                f"{name}: found an end after {number} batches on rank {those} of {ranks.size} and more on others, "
                "expected as many on all; each rank takes its share of every batch"
            )
        if ended.any():
            return
        if is_stream and number == 0:
            warn_of_another(batch, name, ranks)
        yield batch


def warn_of_another(batch: Any, name: str, ranks: Ranks) -> None:
    """Warn, on rank 0, if a first batch is not the same on all ranks."""
    found = ranks.gather(digest_of_rows(_pytree.tree_leaves(batch)))
    if len(set(found)) > 1 and ranks.is_first:
        warnings.warn(
            f"{name}: found another first batch on each rank, expected the same unless a stream draws its data; each "
            "rank takes its share of every batch, so a part of a stream that is split among ranks is never used",
            UserWarning,
            stacklevel=2,
        )


def share_generators(source: Any, ranks: Ranks) -> None:
    """Let the loader of each rank draw its order from the state that its generators have on rank 0."""
    if ranks.size > 1 and isinstance(source, DataLoader):
        own = own_generators(source)
        states = ranks.first(lambda: [each.get_state() for each in own.values()])
        for generator, state in zip(own.values(), states, strict=False):
            generator.set_state(state)


def check_order(source: Any, name: str, ranks: Ranks) -> None:
    """Raise ``ValueError``, after a pass, if the sampler of a loader has drawn other data on another rank."""
    sampler = getattr(source, "batch_sampler", None)
    if isinstance(sampler, ShareSampler) and len(set(ranks.gather(sampler.order.hexdigest()))) > 1:
        raise ValueError(f"{name}: found a sampler that draws another order on each rank, expected the same on all")


class _Apart:
    """Seeds a worker of a rank that is not the first with a seed of its own, for torch has given all ranks the same."""

    def __init__(self, then: Callable[[int], None] | None, rank: int) -> None:
        self.then, self.rank = then, rank

    def __call__(self, worker: int) -> None:
        if self.rank:
            digest = hashlib.sha256(f"{torch.initial_seed()}/{self.rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            random.seed(digest)
            np.random.seed(int.from_bytes(digest[8:12], "big"))
        if self.then is not None:
            self.then(worker)
