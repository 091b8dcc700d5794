"""An array in a folder of ``.npz`` files: each of them is a block, which is read and decompressed as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_vae.data.files import Archive, naming
from pyro_vae.data.storages import Storage

__all__ = ["Shards", "npz_shards"]

_Array = npt.NDArray[Any]


class Shards(Storage):
    """An array in a folder of ``.npz`` files, each of which is a block."""

    def __init__(self, paths: Sequence[Path], key: str, sizes: Sequence[int], shape: Sequence[int], dtype: Any) -> None:
        self.paths, self.key = list(paths), key
        self.firsts = np.concatenate([[0], np.cumsum(sizes)])
        title = paths[0].parent.name if len(paths) > 1 else paths[0].name
        super().__init__((int(self.firsts[-1]), *shape), dtype, title, starts=self.firsts, num_workers=2)

    def read(self, start: int, stop: int) -> _Array:
        """Return some rows, of all files that they lie in."""
        parts = []
        for index in range(self._file_of(start), self._file_of(stop - 1) + 1):
            first = int(self.firsts[index])
            with naming(self.paths[index]), np.load(self.paths[index], allow_pickle=False) as archive:
                parts.append(archive[self.key][max(start - first, 0) : stop - first])
        return np.concatenate(parts)

    def where(self, row: int) -> str:
        """Return the file of a row, and its number there."""
        index = self._file_of(row)
        return f"{self.paths[index].name}, row {row - int(self.firsts[index])}"

    def _file_of(self, row: int) -> int:
        return int(np.searchsorted(self.firsts, row, side="right")) - 1


def npz_shards(paths: Sequence[Path], key: str | None, labels: str | None = None) -> Shards:
    """Return the arrays of one name in several ``.npz`` files, of which the headers alone are read.

    Without a name, it is the only one there but for that of the labels.
    """
    archives = [Archive(path) for path in paths]
    for archive in archives:
        names = [name for name in archive.names if name != labels]
        if key is None and len(names) != 1:
            raise ValueError(
                f"{archive.path}: found the arrays {', '.join(archive.names) or 'none'}, expected one; key= names that "
                "of the data, and labels= may name that of the labels"
            )
        key = key or names[0]
    assert key is not None
    headers = [archive.header(key) for archive in archives]
    for archive, (shape, dtype) in zip(archives, headers, strict=True):
        if not shape or (shape[1:], dtype) != (headers[0][0][1:], headers[0][1]):
            expected = f"(N, {str(headers[0][0][1:])[1:]} of {headers[0][1]} as in the first file"
            raise ValueError(f"{archive.path}: found shape {shape} of {dtype}, expected {expected}")
    return Shards(paths, key, [shape[0] for shape, _ in headers], headers[0][0][1:], headers[0][1])
