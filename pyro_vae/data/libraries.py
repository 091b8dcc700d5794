"""Arrays of other libraries that stay on disk: zarr, HDF5, AnnData, Hugging Face's datasets, Parquet.

Each is read by its own library, which is imported when it is used. What is a block is decided by the storage: a chunk
of zarr or HDF5, a row group of Parquet. Such a block has to be decoded as a whole, whoever asks for one row of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_vae.data.storages import Sliced, Storage, starts_of
from pyro_vae.runtime.foreign import comes_from
from pyro_vae.runtime.optional import imported, install

__all__ = ["Column", "RowGroups", "columns_of", "hdf5", "is_of", "row_groups", "sparse_rows", "zarr_array"]

_WORKERS = 2


def zarr_array(array: Any, key: str | None, title: str) -> Storage:
    """Return an array of zarr, or the one of a name in a group; a block is a chunk, or a shard of chunks."""
    if not hasattr(array, "shape"):
        names = sorted(name for name, _ in array.arrays())
        if key is None and len(names) == 1:
            key = names[0]
        if key is None and array.attrs.get("encoding-type") == "anndata":
            key = "X"
        if key is None or key not in array:
            raise ValueError(f"key: found {key!r} for the group {title}, expected one of {', '.join(names) or 'none'}")
        array, title = array[key], f"{title}/{key}"
    elif key is not None:
        raise ValueError(f"key: found {key!r} for an array of zarr, expected none, since it has no use there")
    if not hasattr(array, "shape"):
        return sparse_rows(imported("anndata.io", "anndata", title, install("cells")).sparse_dataset(array))
    rows = (getattr(array, "shards", None) or array.chunks)[0]
    return Sliced(array, title, starts=starts_of(array.shape[0], rows), num_workers=_WORKERS)


class _InHdf5(Storage):
    """An array in an HDF5 file, dense or sparse, which each process opens for itself."""

    def __init__(self, path: str, name: str, array: Any, **options: Any) -> None:
        super().__init__(array.shape, array.dtype, Path(path).name, num_workers=_WORKERS, **options)
        self.path, self.name = path, name
        self._opened: tuple[int, Any] = (os.getpid(), array)

    def read(self, start: int, stop: int) -> Any:
        """Return some rows."""
        if self._opened[0] != os.getpid():
            found = imported("h5py", "h5py", self.title, install("cells")).File(self.path, "r")[self.name]
            if self.is_sparse:
                found = imported("anndata.io", "anndata", self.title, install("cells")).sparse_dataset(found)
            self._opened = os.getpid(), found
        return self._opened[1][start:stop]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": (-1, None)}


def hdf5(array: Any) -> Storage:
    """Return an array of h5py, or a sparse matrix of an AnnData file, as a storage."""
    if hasattr(array, "group"):
        return sparse_rows(array)
    starts = starts_of(array.shape[0], array.chunks[0]) if array.chunks else None
    return _InHdf5(array.file.filename, array.name, array, starts=starts)


def sparse_rows(array: Any) -> Storage:
    """Return a sparse matrix that AnnData keeps in HDF5 or zarr as a storage of CSR matrices."""
    group, num_rows = array.group, array.shape[0]
    title = Path(group.file.filename).name if hasattr(group, "file") else str(group.path)
    if array.format != "csr":
        raise ValueError(
            f"{title}: found a sparse matrix by columns ({array.format}), of which a row cannot be read without all of "
            "it, expected one by rows: x.tocsr(), written again"
        )
    row_bytes = group["data"].shape[0] / num_rows * (group["data"].dtype.itemsize + group["indices"].dtype.itemsize)
    options = {"is_sparse": True, "row_bytes": max(row_bytes, 1)}
    found: Storage
    if hasattr(group, "file"):
        found = _InHdf5(group.file.filename, group.name, array, **options)
    else:
        found = Sliced(array, title, num_workers=_WORKERS, **options)
    found.block_bytes = 4 << 20  # a read takes some milliseconds, whatever it reads
    found.num_copies = 2  # the blocks, and all of a window in one matrix
    return found


class Column(Storage):
    """A column of a data set of Hugging Face, in the format of torch or NumPy."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.table, self.name = dataset.select_columns([name]), name
        first = self.table[:1][name]
        first = np.asarray(first) if hasattr(first, "dtype") else np.empty(0, object)  # a list of unlike rows
        title = f"the column {name!r}"
        if first.dtype.kind not in "biuf":
            raise TypeError(
                f"data: found {title}, which holds no numbers of one shape, expected them; "
                f"x.remove_columns({name!r}) leaves it out"
            )
        super().__init__((len(dataset), *first.shape[1:]), first.dtype, title, num_workers=_WORKERS)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return some rows."""
        found = self.table[start:stop][self.name]
        if not hasattr(found, "shape") or tuple(found.shape[1:]) != self.shape[1:]:
            raise ValueError(f"{self.where(start)} to {stop - 1}: found several shapes, expected {self.shape[1:]}")
        return np.asarray(found)


def columns_of(dataset: Any) -> dict[str, Storage]:
    """Return the columns of a data set of Hugging Face by their names."""
    form = dataset.format["type"]
    if form not in ("torch", "numpy"):
        raise ValueError(f"data: found a data set in the format {form!r}, expected x.with_format('torch')")
    return {name: Column(dataset, name) for name in dataset.format["columns"] or dataset.column_names}


class RowGroups(Storage):
    """The columns of Parquet files as an array ``(N, D)``, each row group of which is a block."""

    num_copies = 2  # the table that it is read from

    def __init__(self, pieces: Sequence[Any], names: Sequence[str], dtype: Any, title: str) -> None:
        self.pieces, self.names = list(pieces), list(names)
        self.firsts = np.concatenate([[0], np.cumsum([_num_rows(piece) for piece in pieces])])
        shape = (int(self.firsts[-1]), len(names))
        super().__init__(shape, dtype, title, starts=self.firsts, num_workers=_WORKERS)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return some rows, of all row groups that they lie in."""
        parts = []
        for index in range(self._piece_of(start), self._piece_of(stop - 1) + 1):
            first = int(self.firsts[index])
            rows = slice(max(start - first, 0), stop - first)
            table = self.pieces[index].to_table(columns=self.names, use_threads=False)
            if gaps := [name for name in self.names if table.column(name).null_count]:
                raise ValueError(
                    f"{self.where(first)} to {int(self.firsts[index + 1]) - 1 - first}: found missing entries in the "
                    f"columns {', '.join(map(repr, gaps[:5]))}, expected none"
                )
            columns = [table.column(name).to_numpy()[rows].astype(self.dtype) for name in self.names]
            parts.append(np.stack(columns, 1))
        return np.concatenate(parts)

    def where(self, row: int) -> str:
        """Return the file of a row, and its number in the row group."""
        index = self._piece_of(row)
        piece = self.pieces[index]
        group = f"row group {piece.row_groups[0].id}"
        return f"{Path(piece.path).name}, {group}, row {row - int(self.firsts[index])}"

    def _piece_of(self, row: int) -> int:
        return int(np.searchsorted(self.firsts, row, side="right")) - 1


def _num_rows(piece: Any) -> int:
    return int(piece.row_groups[0].num_rows)  # count_rows() is that of the whole file


def row_groups(dataset: Any, without: str | None, title: str) -> RowGroups:
    """Return the columns of a data set of pyarrow, but for the one of labels."""
    pieces = [piece for fragment in dataset.get_fragments() for piece in fragment.split_by_row_group()]
    pieces = [piece for piece in pieces if _num_rows(piece)]
    fields = [field for field in dataset.schema if field.name != without]
    is_number = imported("pyarrow.types", "pyarrow", title, install("tables"))
    others = [
        f"{field.name!r} ({field.type})" for field in fields
        if not (is_number.is_integer(field.type) or is_number.is_floating(field.type)
                or is_number.is_boolean(field.type))
    ]  # fmt: skip
    if others or not fields or not pieces:
        raise TypeError(
            f"{title}: found the columns {', '.join(others[:5]) or 'none'} in {len(pieces)} row groups, expected "
            "numbers; pyro_vae.Table.from_frame takes mixed columns of a frame in memory"
        )
    dtype = np.float32 if all(str(field.type) == "float" for field in fields) else np.float64
    return RowGroups(pieces, [field.name for field in fields], dtype, title)


def is_of(x: object, library: str, *attributes: str) -> bool:
    """Return whether an object comes from a library and has some attributes."""
    return comes_from(x, library) and all(hasattr(x, name) for name in attributes)
