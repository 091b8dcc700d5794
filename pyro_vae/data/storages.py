r"""Arrays that stay on disk, read by blocks of rows.

A :class:`Storage` has N rows of one shape, cut into blocks

.. math:: 0 = s_0 < s_1 < \dots < s_n = N

of rows that are read at once: a chunk of zarr or HDF5, a file of a folder, a mebibyte of an ``.npy`` file.

An ``.npy`` file, and a memory map of one, is read by plain reads into a buffer, not through the map. Both take their
pages from the same cache of the system, so they are as fast. But pages of a map that were touched count as memory of
the process (RSS), as long as the system leaves them there: a pass through 20 GiB makes the process look as large as
that, and a container with a limit may end it. A buffer is all that a plain read holds.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_vae.data.files import naming, read_header

__all__ = ["RawFiles", "Segment", "Sliced", "Storage", "is_mapped", "mapped", "npy_segment", "starts_of"]

_Array = npt.NDArray[Any]


class Storage:
    """N rows of one shape that are read in blocks.

    Parameters
    ----------
    shape, dtype
        Those of the whole array.
    starts
        Where the blocks begin that the storage is made of, and N; ``None`` if any rows can be read as well.
    title
        What messages call it.
    row_bytes
        The bytes that a row takes in memory; by default those of a dense one.
    num_workers
        In how many processes it is best read: none where a read costs hardly more than a copy.
    is_sparse
        Whether :meth:`read` returns CSR matrices of scipy.

    Attributes
    ----------
    block_bytes
        The bytes of a block that make a read worth its cost, where any rows can be read.
    num_copies
        How often a block is in memory while it is held or read.
    """

    block_bytes, num_copies = 1 << 20, 1

    def __init__(
        self, shape: Sequence[int], dtype: Any, title: str, *, starts: _Array | None = None,
        row_bytes: float | None = None, num_workers: int = 0, is_sparse: bool = False,
    ) -> None:  # fmt: skip
        self.shape, self.dtype, self.title = tuple(map(int, shape)), np.dtype(dtype), title
        if self.dtype.kind not in "biuf":
            raise TypeError(f"{title}: found dtype {self.dtype}, expected real numbers")
        if not self.shape or 0 in self.shape:
            raise ValueError(f"{title}: found shape {self.shape}, expected data (N, *data_shape) with N of 1 or more")
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize if row_bytes is None else row_bytes
        self.starts = starts
        self.num_workers, self.is_sparse = num_workers, is_sparse

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def num_bytes(self) -> int:
        """The bytes that all rows take in memory."""
        return int(len(self) * self.row_bytes)

    def blocks(self, size: int) -> _Array:
        """Return where blocks begin, and N: those of the storage, or blocks of so many rows."""
        return starts_of(len(self), size) if self.starts is None else self.starts

    def read(self, start: int, stop: int) -> Any:
        """Return some rows, as an array or a CSR matrix."""
        raise NotImplementedError

    def fill(self, start: int, stop: int, out: _Array) -> None:
        """Read some rows into an array."""
        out[...] = self.read(start, stop)

    def where(self, row: int) -> str:
        """Return the place of a row: its file, and its number there."""
        return f"{self.title}, row {row}"


def starts_of(num_rows: int, size: int) -> _Array:
    """Return the beginnings of blocks of one size, and the end of the last.

    >>> starts_of(10, 4).tolist()
    [0, 4, 8, 10]
    """
    return np.append(np.arange(0, num_rows, size), num_rows)


class Sliced(Storage):
    """An array that is read by slices of its rows, as those of zarr are."""

    def __init__(self, array: Any, title: str, **options: Any) -> None:
        super().__init__(array.shape, array.dtype, title, **options)
        self.array = array

    def read(self, start: int, stop: int) -> Any:
        """Return some rows."""
        return self.array[start:stop]


class _Mapped(Sliced):
    """A memory map whose rows are not one after the other in its file, read through the map."""

    def read(self, start: int, stop: int) -> Any:
        """Return a copy of some rows, and give the pages back that were touched."""
        found = np.array(self.array[start:stop])
        if is_mapped(self.array) and self.array.mode != "c":  # changes of a private map lie in its pages alone
            self.array._mmap.madvise(mmap.MADV_DONTNEED)
        return found


class Segment(NamedTuple):
    """Rows that lie one after the other in a file."""

    path: Path
    offset: int  # of the first, in bytes
    num_rows: int


class RawFiles(Storage):
    """Rows that lie one after the other in one or more files; blocks end where files do."""

    def __init__(self, segments: Sequence[Segment], data_shape: Sequence[int], dtype: Any, title: str) -> None:
        self.segments = list(segments)
        self.ends = np.cumsum([each.num_rows for each in segments])
        super().__init__((int(self.ends[-1]), *data_shape), dtype, title)

    def blocks(self, size: int) -> _Array:
        """Return where blocks of so many rows begin, and N."""
        firsts = [starts_of(n, size)[:-1] + end - n for end, (_, _, n) in zip(self.ends, self.segments, strict=True)]
        return np.append(np.concatenate(firsts), self.ends[-1])

    def fill(self, start: int, stop: int, out: _Array) -> None:
        """Read some rows into an array, by plain reads of their files."""
        if out.dtype != self.dtype or not out.flags.c_contiguous:
            out[...] = self.read(start, stop)
            return
        index, done = int(np.searchsorted(self.ends, start, side="right")), 0
        while done < stop - start:
            path, offset, num_rows = self.segments[index]
            first = start + done - (int(self.ends[index]) - num_rows)
            count = min(num_rows - first, stop - start - done)
            _read_into(path, offset + first * int(self.row_bytes), out[done : done + count])
            done, index = done + count, index + 1

    def read(self, start: int, stop: int) -> _Array:
        """Return some rows."""
        found = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.fill(start, stop, found)
        return found

    def where(self, row: int) -> str:
        """Return the file of a row, and its number there."""
        index = int(np.searchsorted(self.ends, row, side="right"))
        path, _, num_rows = self.segments[index]
        return f"{path.name}, row {row - (int(self.ends[index]) - num_rows)}"


def _read_into(path: Path, offset: int, out: _Array) -> None:
    view, done = out.view(np.uint8).reshape(-1).data, 0
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ValueError(f"{path}: found a file that ends after {offset + done} bytes, expected a whole one")
            done += count


def npy_segment(path: Path) -> tuple[Segment, tuple[int, ...], np.dtype[Any]]:
    """Return where the rows of an ``.npy`` file lie in it, the shape of one, and their type; reads its header alone."""
    with naming(path), path.open("rb") as file:
        shape, in_columns, dtype = read_header(file)
        offset, size = file.tell(), path.stat().st_size
        if size < offset + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it ends after {size} bytes")
    if in_columns and len(shape) > 1:
        raise ValueError(f"{path}: found an array in Fortran's order, expected one whose rows are one after the other")
    if not shape:
        raise ValueError(f"{path}: found a single number, expected data (N, *data_shape)")
    return Segment(path, offset, shape[0]), shape[1:], dtype


def is_mapped(x: Any) -> bool:
    """Return whether an array is a memory map, or a part of one, and not what was computed from it."""
    return isinstance(x, np.memmap) and getattr(x, "_mmap", None) is not None


def mapped(x: np.memmap[Any, Any]) -> Storage:
    """Return a memory map, or a part of one, as a storage: read from its file where its rows lie there in a row."""
    title = "the memory map" if x.filename is None else Path(x.filename).name
    if x.filename is None or x.mode == "c" or not x.flags.c_contiguous or x.ndim == 0:
        return _Mapped(x, title)
    base = np.frombuffer(vars(x)["_mmap"], np.uint8)  # of the whole map; the offset of a slice is that of its base
    before = x.offset - x.offset % mmap.ALLOCATIONGRANULARITY
    offset = before + x.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    path = Path(os.path.abspath(x.filename))
    found = RawFiles([Segment(path, offset, len(x))], x.shape[1:], x.dtype, title)
    for row in {0, len(x) - 1}:
        if found.read(row, row + 1).tobytes() != x[row : row + 1].tobytes():
            raise ValueError(
                f"{path}: found another file than the one that was mapped, expected one that stays as it is"
            )
    return found
