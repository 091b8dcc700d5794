"""Loaders that read whole batches of rows at once, from a :class:`Stored` or from sparse rows in memory.

They are ``DataLoader`` s of torch, with its workers and pinned memory. Their data set gives a batch as one tensor, so
that nothing is stacked. What goes wrong in a worker comes back as the batch, and is raised where the batch was asked
for.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pyro_vae.data.batch import Batch
from pyro_vae.data.block_order import BlockSampler
from pyro_vae.data.sparse import SparseSplit
from pyro_vae.data.stored import Stored
from pyro_vae.data.windows import Window, read_rows
from pyro_vae.errors import ProgramError
from pyro_vae.runtime.memory import in_words
from pyro_vae.runtime.ranks import is_connected

__all__ = [
    "begins_at",
    "cuts_rows",
    "held",
    "naming_rows",
    "order_of",
    "passing",
    "reads_rows",
    "skip",
    "some_rows",
    "sparse_loader",
    "stored_in",
    "stored_loader",
]


class Unreadable:
    """What stands for a batch that cannot be read: the error, for the process that asked for it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def as_read(batch: Any) -> Any:
    """Return a batch as the data set has read it."""
    return batch


class _SparseRows(Dataset[Any]):
    """Sparse rows in memory, read as one dense tensor a batch."""

    def __init__(self, split: SparseSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        return self.split.rows(indices)


class _Rows(Dataset[Any]):
    """The rows of stored data, read by a window, which each process makes for itself."""

    def __init__(self, stored: Stored, num_blocks: int) -> None:
        self.stored, self.num_blocks = stored, num_blocks
        self.window: Window | None = None

    def __len__(self) -> int:
        return len(self.stored)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        stored, rows = self.stored, np.asarray(indices)
        try:
            return stored.made(self._held().take(rows if stored.rows is None else stored.rows[rows]))
        except (ValueError, OSError) as error:
            return Unreadable(error)

    def read_ahead(self, blocks: Any, kept: Any) -> None:
        """Begin to read blocks that will be asked for."""
        self._held().read_ahead(blocks, kept)

    def _held(self) -> Window:
        if self.window is None:
            self.window = Window(self.stored.columns.values, self.stored.starts, self.num_blocks)
        return self.window

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"window": None}


def sparse_loader(split: SparseSplit, batch_size: int, shuffle: bool, device: torch.device) -> DataLoader[Any]:
    """Return a loader of batches of sparse rows, in an order that is fully shuffled."""
    pinned = device.type == "cuda"
    return DataLoader(_SparseRows(split), batch_size, shuffle=shuffle, collate_fn=as_read, pin_memory=pinned)


def stored_loader(stored: Stored, batch_size: int, shuffle: bool, device: torch.device) -> DataLoader[Any]:
    """Return a loader of batches of stored data: window by window, or in their order.

    Where this process reads by itself, a window is half of what it may hold, and the next one is read by a thread.
    """
    starts = stored.starts if stored.rows is None else np.searchsorted(stored.rows, stored.starts)
    readers = max(1, stored.num_workers) if shuffle else 1
    has_workers = stored.num_workers and readers <= _num_cores() and (stored.own_workers or not is_connected())
    num_workers = readers if has_workers else 0  # the order is the same
    held, num_blocks = int(stored.window_bytes // stored.block_bytes), len(starts) - 1
    is_ahead = shuffle and not stored.num_workers and 4 <= held < num_blocks
    window = max(1, min(held // 2 if is_ahead else held, num_blocks))
    if shuffle and window == 1 < num_blocks:
        warnings.warn(
            f"window_bytes: found {in_words(stored.window_bytes)}, which hold one block of {stored.title}, of "
            f"{in_words(stored.block_bytes)}, expected several, so that rows of different blocks meet in a batch",
            UserWarning,
            stacklevel=2,
        )
    if not shuffle:  # as many blocks as a batch may lie in
        window = min(window, 1 + math.ceil(batch_size * num_blocks / len(stored)))
    order = BlockSampler(starts, window=window, batch_size=batch_size, num_readers=readers, shuffle=shuffle)
    rows = _Rows(stored, window if num_workers else window * (2 if is_ahead else readers))
    if is_ahead:
        order.read_ahead = rows.read_ahead
    pinned = device.type == "cuda"
    return DataLoader(rows, batch_size, sampler=order, num_workers=num_workers, collate_fn=as_read, pin_memory=pinned)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def passing(loader: DataLoader[Any]) -> Iterator[Any]:
    """Begin a pass through a loader; an error in reading is raised with the batch that it belongs to."""
    return map(_raised, iter(loader))


def _raised(batch: Any) -> Any:
    if isinstance(batch, Unreadable):
        error = batch.error
        del batch
        try:
            raise error
        finally:
            del error  # which holds this frame: in a circle, workers are waited for 5 s each when they are to end
    return batch


def cuts_rows(source: Any) -> bool:
    """Return whether a batch has a row for each datum: of resident data, and of a loader that puts them together."""
    if not isinstance(source, DataLoader):
        return True
    return source.batch_sampler is not None and source.collate_fn in (default_collate, as_read)


def reads_rows(source: Any) -> bool:
    """Return whether a loader reads rows as they are, in this process: workers read on while a step is taken."""
    return isinstance(getattr(source, "dataset", None), (_Rows, _SparseRows)) and not source.num_workers


def skip(source: Any, num_batches: int) -> int:
    """Let the next pass of a loader of stored data begin after some batches, unread; return how many they are.

    It is none for another source, and where an epoch has fewer batches.
    """
    order = getattr(source, "sampler", None)
    if not isinstance(order, BlockSampler) or num_batches > len(source):
        return 0
    order.skip = num_batches * order.batch_size
    return num_batches


def begins_at(source: Any) -> int:
    """Return the place, in the epoch, of the first datum of the next pass."""
    order = getattr(source, "sampler", None)
    return order.skip if isinstance(order, BlockSampler) else 0


def order_of(source: Any) -> str | None:
    """Return in words how the order of stored data is drawn, ``None`` for other data."""
    order = getattr(source, "sampler", None)
    return repr(order) if isinstance(order, BlockSampler) else None


def naming_rows(source: Any, check: Callable[[Batch, int], None]) -> Callable[[Batch, int], None]:
    """Return a check of batches that names what it refuses by its place on the disk, for a loader of stored data."""
    stored, order = stored_in(source), getattr(source, "sampler", None)
    if stored is None or not isinstance(order, BlockSampler):
        return check

    def named(x: Batch, start: int) -> None:
        try:
            check(x, start)
        except ProgramError:
            raise
        except ValueError as error:
            wrong = {index: found for index in range(len(x)) if (found := _error(check, x[index : index + 1]))}
            if not wrong or len(wrong) == len(x) > 1:  # it is not about single rows
                raise
            index, found = next(iter(wrong.items()))
            row = order.row_at(start + index)
            where = stored.columns.values[0].where(row if stored.rows is None else int(stored.rows[row]))
            raise ValueError(f"{where}: {found}") from error

    return named


def _error(check: Callable[[Batch, int], None], x: Batch) -> str | None:
    try:
        check(x, 0)
    except ValueError as error:
        return str(error)
    return None


def stored_in(source: Any) -> Stored | None:
    """Return the stored data that a loader of this module reads, ``None`` for another source."""
    rows = getattr(source, "dataset", None)
    return rows.stored if isinstance(rows, _Rows) else None


def some_rows(source: Any) -> list[Tensor]:
    """Return the first, the middle and the last row of what a loader of this module reads; nothing of another one."""
    dataset = getattr(source, "dataset", None)
    if not isinstance(dataset, (_Rows, _SparseRows)) or not len(dataset):
        return []
    rows = np.array([0, len(dataset) // 2, len(dataset) - 1])
    if isinstance(dataset, _SparseRows):
        return [dataset.split.rows(rows.tolist())]
    stored = dataset.stored
    rows = rows if stored.rows is None else stored.rows[rows]
    return [read_rows(column, rows) for column in stored.columns.values]


def held(loader: Any) -> str | None:
    """Return a line on what a loader of stored data holds in memory, ``None`` for another one."""
    rows, order = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    if not isinstance(rows, _Rows):
        return None
    stored, processes = rows.stored, max(1, loader.num_workers)
    whole = in_words(rows.num_blocks * processes * stored.block_bytes)
    by = f"{processes} worker processes" if loader.num_workers else "this process"
    return f"{stored!r}: at most {whole} of them in memory, {order!r}, read by {by}"
