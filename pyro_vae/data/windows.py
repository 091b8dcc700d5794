"""The blocks of stored data that are held in memory: as many as a window has, and never more.

Each column has one buffer with a slot for every block of the window. A block that is asked for takes the slot of the
one that was used the longest ago, and the rows of a batch are gathered from the buffer at once. Sparse blocks stay
sparse in it; only a batch is dense. Blocks that will be asked for can be read by a thread in the meantime, since a read
leaves the processor, and Python's lock, to others.

Every block is checked as it is read. NaN and infinite numbers are named by the file and the row that they stand in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.data.storages import Storage
from pyro_vae.runtime.optional import imported, install

__all__ = ["Window", "dense", "dtype_of", "read_rows"]

_Array = npt.NDArray[Any]


class _Ahead(NamedTuple):
    """Blocks that a thread reads into slots, and what it has found for each column of each of them."""

    blocks: _Array
    slots: _Array
    found: Future[list[list[Any]]]


class Window:
    """A window of ``num_blocks`` blocks of rows that several storages have in common.

    Parameters
    ----------
    columns
        The storages, of the same number of rows.
    starts
        Where the blocks begin, and the number of rows.
    num_blocks
        How many are held.
    """

    def __init__(self, columns: Sequence[Storage], starts: _Array, num_blocks: int) -> None:
        self.starts, self.num_blocks = starts, max(1, min(num_blocks, len(starts) - 1))
        self.height = int(np.diff(starts).max())
        self._slots = np.full(len(starts) - 1, -1)  # of each block
        self._blocks = np.full(self.num_blocks, -1)  # of each slot
        self._last_used = np.full(self.num_blocks, -1)
        self._time = 0
        self._ahead: _Ahead | None = None
        self._is_ahead = np.zeros(len(starts) - 1, bool)  # of each block
        self._thread: ThreadPoolExecutor | None = None
        self._buffers = [
            (_Sparse if each.is_sparse else _Dense)(each, self.num_blocks, self.height) for each in columns
        ]

    def take(self, rows: _Array) -> list[Tensor]:
        """Return some rows of each column, ``(B, *data_shape)``, and read the blocks that are missing.

        Raises
        ------
        ValueError
            If a number in a block that is read is NaN or infinite.
        """
        blocks = np.searchsorted(self.starts, rows, side="right") - 1
        if self._ahead is not None and self._is_ahead[blocks].any():
            self._end_ahead()
        held = self._slots[blocks] >= 0
        if held.all():
            return self._gather(rows, blocks)
        missing = np.unique(blocks[~held])
        parts = [(held, self._gather(rows[held], blocks[held]))] if held.any() else []
        for first in range(0, len(missing), self.num_blocks):
            some = missing[first : first + self.num_blocks]
            self._load(some)
            chosen = np.isin(blocks, some)
            parts.append((chosen, self._gather(rows[chosen], blocks[chosen])))
        if len(parts) == 1:
            return parts[0][1]
        order = np.argsort(np.concatenate([np.flatnonzero(chosen) for chosen, _ in parts]))
        return [torch.cat(found)[torch.from_numpy(order)] for found in zip(*(part for _, part in parts), strict=True)]

    def read_ahead(self, blocks: _Array, kept: _Array) -> None:
        """Begin to read some blocks in a thread, into slots that hold none of those that are kept."""
        self._end_ahead()
        missing = blocks[self._slots[blocks] < 0]
        slots = np.flatnonzero(~np.isin(self._blocks, np.concatenate([blocks, kept])))[: len(missing)]
        if len(slots) < len(missing) or not len(missing):
            return
        self._free(slots)
        self._thread = self._thread or ThreadPoolExecutor(1, "reading ahead")
        self._is_ahead[:] = False
        self._is_ahead[missing] = True
        self._ahead = _Ahead(missing, slots, self._thread.submit(self._read, missing, slots))

    def _end_ahead(self) -> None:
        """Wait for the thread; what it could not read is read again when it is asked for, where the error belongs."""
        if self._ahead is None:
            return
        failed = self._ahead.found.exception() is not None  # where Ctrl-C ends the wait, the thread still has its slots
        ahead, self._ahead = self._ahead, None
        if not failed:
            self._put(ahead.blocks, ahead.slots, ahead.found.result())

    def _load(self, blocks: _Array) -> None:
        """Read some blocks, into the slots that were used the longest ago."""
        self._end_ahead()
        slots = np.argsort(self._last_used, kind="stable")[: len(blocks)]
        self._free(slots)
        for block, slot in zip(blocks, slots, strict=True):
            self._put(np.array([block]), np.array([slot]), self._read([block], [slot]))

    def _free(self, slots: _Array) -> None:
        held = self._blocks[slots]
        self._slots[held[held >= 0]] = -1
        self._blocks[slots] = -1
        for buffer in self._buffers:
            for slot in slots:
                buffer.put(int(slot), None)

    def _read(self, blocks: Sequence[int] | _Array, slots: Sequence[int] | _Array) -> list[list[Any]]:
        """Read blocks, of which a buffer may take the values at once, as no row of these slots is asked for."""
        return [
            [buffer.read(int(slot), int(self.starts[block]), int(self.starts[block + 1])) for buffer in self._buffers]
            for block, slot in zip(blocks, slots, strict=True)
        ]

    def _put(self, blocks: _Array, slots: _Array, found: list[list[Any]]) -> None:
        for slot, each in zip(slots, found, strict=True):
            for buffer, values in zip(self._buffers, each, strict=True):
                buffer.put(int(slot), values)
        self._blocks[slots], self._slots[blocks], self._last_used[slots] = blocks, slots, self._time

    def _gather(self, rows: _Array, blocks: _Array) -> list[Tensor]:
        slots, self._time = self._slots[blocks], self._time + 1
        self._last_used[slots] = self._time
        offsets = rows - self.starts[blocks]
        return [buffer.gather(slots, offsets) for buffer in self._buffers]


class _Dense:
    """The rows of all slots in one tensor, of which the system gives memory to what was written alone."""

    def __init__(self, storage: Storage, num_slots: int, height: int) -> None:
        self.storage, self.height = storage, height
        size = (num_slots * height, *storage.shape[1:])
        self.buffer = torch.empty(size, dtype=dtype_of(storage))
        self.values = self.buffer.numpy()

    def read(self, slot: int, start: int, stop: int) -> None:
        first = slot * self.height
        out = self.values[first : first + stop - start]
        self.storage.fill(start, stop, out)
        if out.dtype.kind == "f" and not math.isfinite(_total(out)):
            _check(out, self.storage, start)

    def put(self, slot: int, values: None) -> None:
        """Do nothing: they are there."""

    def gather(self, slots: _Array, offsets: _Array) -> Tensor:
        return self.buffer.index_select(0, torch.from_numpy(slots * self.height + offsets))


class _Sparse:
    """The CSR matrices of all slots, put together as one when they have changed."""

    def __init__(self, storage: Storage, num_slots: int, height: int) -> None:
        self.storage = storage
        self.scipy = imported("scipy.sparse", "scipy", storage.title, install("cells"))
        self.blocks: list[Any] = [None] * num_slots
        self.together: Any = None

    def read(self, slot: int, start: int, stop: int) -> Any:
        return _checked_rows(self.scipy.csr_array(self.storage.read(start, stop)), self.storage, start)

    def put(self, slot: int, values: Any) -> None:
        self.together, self.blocks[slot] = None, values

    def gather(self, slots: _Array, offsets: _Array) -> Tensor:
        if self.together is None:
            heights = [0 if block is None else block.shape[0] for block in self.blocks]
            self.first = np.cumsum([0, *heights])[:-1]
            self.together = self.scipy.vstack([block for block in self.blocks if block is not None], format="csr")
        return dense(self.together[self.first[slots] + offsets])


def read_rows(storage: Storage, rows: _Array) -> Tensor:
    """Return some rows of a storage, ``(B, *data_shape)``, and read nothing else that it can be spared."""
    wanted, places = np.unique(rows, return_inverse=True)
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
    parts = []
    for run in runs if len(rows) else []:
        found = storage.read(int(run[0]), int(run[-1]) + 1)
        if storage.is_sparse:
            parts.append(dense(_checked_rows(found, storage, int(run[0]))))
            continue
        values = np.ascontiguousarray(found, dtype=torch.empty(0, dtype=dtype_of(storage)).numpy().dtype)
        _check(values, storage, int(run[0]))
        parts.append(torch.from_numpy(values))
    if not parts:
        return torch.empty((0, *storage.shape[1:]), dtype=dtype_of(storage))
    return torch.cat(parts)[torch.from_numpy(places)]


def dense(rows: Any) -> Tensor:
    """Return the rows of a CSR matrix as a dense tensor: of float64 if they are, otherwise of float32."""
    return torch.from_numpy(rows.toarray().astype(np.float64 if rows.dtype == np.float64 else np.float32, copy=False))


def dtype_of(storage: Storage) -> torch.dtype:
    """Return the type of a storage's tensors: its own, and int64 for whole numbers that torch hardly computes with."""
    if storage.dtype.kind == "u" and storage.dtype.itemsize > 1:
        return torch.int64
    return torch.from_numpy(np.empty(0, storage.dtype.newbyteorder("="))).dtype


def _total(values: _Array) -> float:
    return float(torch.from_numpy(values).sum())  # not finite where a number is not; where it overflows, all are seen


def _checked_rows(found: Any, storage: Storage, start: int) -> Any:
    """Return a CSR matrix of finite numbers."""
    if not np.isfinite(found.data).all():
        entry = int(np.isfinite(found.data).argmin())
        row, column = int(np.searchsorted(found.indptr, entry, side="right")) - 1, int(found.indices[entry])
        raise _not_finite(found.data[entry], storage.where(start + row), (column,))
    return found


def _check(values: _Array, storage: Storage, start: int) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row, *entry = (int(each) for each in np.unravel_index(int(finite.argmin()), values.shape))
        raise _not_finite(values[(row, *entry)], storage.where(start + row), tuple(entry))


def _not_finite(value: Any, where: str, entry: tuple[int, ...]) -> ValueError:
    at = f", entry {entry}" if entry else ""
    return ValueError(f"{where}{at}: found {value}, expected finite numbers")
