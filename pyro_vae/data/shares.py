r"""Shares of a batch: each rank of a process group takes its rows of every batch.

A batch of B data is cut into as many shares as there are ranks, of :math:`B_r` data. All ranks draw the same order of
the data, so that no datum is in two shares, and

.. math:: \sum_b \nabla \mathrm{loss}(x_b) = \sum_r \sum_{b \in r} \nabla \mathrm{loss}(x_b) .

Where a last batch has fewer data than there are ranks, some have an empty share. They run on the batch's first datum,
which counts as none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from pyro_vae.data.batch import Batch
from pyro_vae.runtime.ranks import Ranks

__all__ = ["Part", "ShareSampler", "rows_of", "share_of", "sharing_loader"]


class Part(NamedTuple):
    """A share that stands alone, for the batch of which it is one is the last, or may be."""

    rows: Batch | slice  # or the data themselves
    num_data: int  # that count: 0 for an empty share


def share_of(num: int, ranks: Ranks) -> tuple[slice, int]:
    """Return the rows of a rank's share of a batch, and how many of them count."""
    share = ranks.share(num)
    return (share, share.stop - share.start) if share.stop > share.start else (slice(0, 1), 0)


def rows_of(rows: Tensor | slice, batch_size: int, num_data: int, ranks: Ranks) -> Tensor | Part:
    """Return a rank's share of the rows of a batch: a tensor for a whole batch of shuffled data, otherwise a part."""
    if isinstance(rows, slice):
        stop = min(rows.stop, num_data)
        share, count = share_of(stop - rows.start, ranks)
        return Part(slice(rows.start + share.start, rows.start + share.stop), count)
    share, count = share_of(len(rows), ranks)
    return rows[share] if len(rows) == batch_size else Part(rows[share], count)


class ShareSampler:
    """The share of a rank of each batch of indices that a loader's own sampler draws.

    ``counts`` holds how many of the data of each share count, in order, for those that were not asked for yet.
    """

    def __init__(self, batches: Any, ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks
        self.counts: deque[int] = deque()

    @property
    def sampler(self) -> Any:
        """The sampler of single data."""
        return getattr(self.batches, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        self.counts.clear()
        for indices in self.batches:
            share, count = share_of(len(indices), self.ranks)
            self.counts.append(count)
            yield indices[share]

    def __len__(self) -> int:
        return len(self.batches)


def sharing_loader(loader: DataLoader[Any], ranks: Ranks) -> DataLoader[Any]:
    """Return a loader of a rank's shares of the same batches, or the same loader if it yields batches unasked.

    Raises
    ------
    ValueError
        For a loader whose sampler shares the data already.
    """
    if ranks.size == 1:
        return loader
    if isinstance(loader.sampler, DistributedSampler):
        raise ValueError(
            "data: found a DataLoader with a DistributedSampler, expected one of all data: each batch is shared "
            "among the ranks here"
        )
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
             "generator", "prefetch_factor", "persistent_workers", "pin_memory_device", "in_order")  # fmt: skip
    options = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    return DataLoader(loader.dataset, batch_sampler=ShareSampler(loader.batch_sampler, ranks), **options)
