"""Paths and objects of other libraries as storages, of which nothing is read but what says how large they are.

**What stays on disk.** Data that take less than a quarter of the memory that the process may use are read whole: they
train faster, in an order that is fully shuffled. Larger ones stay where they are. Both say so in their ``repr``, and
``in_memory=`` of :func:`pyro_vae.data.load`, or :class:`pyro_vae.data.Stored`, decides otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.batch import Arguments
from pyro_vae.data.files import Archive, naming
from pyro_vae.data.frames import column
from pyro_vae.data.libraries import columns_of, hdf5, is_of, row_groups, zarr_array
from pyro_vae.data.shards import npz_shards
from pyro_vae.data.storages import RawFiles, Storage, is_mapped, mapped, npy_segment
from pyro_vae.runtime.memory import total_memory
from pyro_vae.runtime.optional import imported, install

__all__ = ["Opened", "is_small", "opened"]

_SHARE = 4  # of the memory: data that take less than one part of so many are read whole


class Opened(NamedTuple):
    """Storages of one or more columns of the same rows."""

    columns: Arguments  # of storages
    title: str
    labels: Any = None  # (N,), integers or names
    rows: Any = None  # those of a split, in order; None for all
    levels: tuple[int, ...] = ()  # by which the columns are divided; none for 1

    @property
    def num_bytes(self) -> int:
        """The bytes that all rows of all columns take in memory."""
        return sum(each.num_bytes for each in self.columns.values)

    @property
    def fits(self) -> bool:
        """Whether the data are small enough to be read whole."""
        return is_small(self.num_bytes)

    def whole(self) -> Any:
        """Return all rows in memory: an array or CSR matrix, or :class:`Arguments` of several."""
        read = [each.read(0, len(each)) for each in self.columns.values]
        return read[0] if len(read) == 1 else self.columns.replaced(read)


def is_small(num_bytes: int) -> bool:
    """Return whether data of some bytes are read whole."""
    return num_bytes <= total_memory() // _SHARE


def opened(data: Any, key: str | None = None, labels: Any = None) -> Opened | None:
    """Return the storages of data that can stay where they are, ``None`` for those of another kind.

    Parameters
    ----------
    data
        A memory map; the path of a file ``.npy``, ``.npz``, ``.parquet`` or ``.h5ad``, or of a folder of such files,
        of zarr, or that ``datasets`` saved; an array of zarr or h5py; an AnnData with its ``X`` in a file; a data set
        of ``datasets`` or ``pyarrow``.
    key
        The array, column or layer that is the data, where there are several.
    labels
        Labels, or the name of a column of them.

    Raises
    ------
    ValueError, TypeError, ImportError
        If it is of such a kind, and cannot be read.
    """
    if isinstance(data, (str, os.PathLike)):
        path = os.path.expanduser(data)
        return _opened_path(Path(path), key, labels) if os.path.exists(path) else None
    if isinstance(data, np.memmap):
        return _single(mapped(data), labels) if is_mapped(data) and data.ndim and data.size else None
    if is_of(data, "zarr", "shape", "chunks") or is_of(data, "zarr", "arrays"):
        return _single(zarr_array(data, key, getattr(data, "path", "") or "the array of zarr"), labels)
    if is_of(data, "h5py", "shape", "chunks") or is_of(data, "anndata", "group", "format"):
        return _single(hdf5(data), labels)
    if is_of(data, "anndata", "obs") and data.isbacked and key not in data.layers:
        return _cells(data, key, labels)
    if is_of(data, "datasets", "column_names", "select_columns", "__len__"):
        return _columns(data, key, labels)
    if is_of(data, "pyarrow", "get_fragments"):
        return _tables(data, labels, "the data set of pyarrow")
    return None


def _single(storage: Storage, labels: Any) -> Opened:
    if isinstance(labels, str):
        raise ValueError(f"labels: found {labels!r} for {storage.title}, expected integers or names (N,)")
    return Opened(Arguments(storage), storage.title, labels)


def _opened_path(path: Path, key: str | None, labels: Any) -> Opened | None:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _opened_folder(path, key, labels)
    if suffix == ".npy":
        segment, data_shape, dtype = npy_segment(path)
        return _single(RawFiles([segment], data_shape, dtype, path.name), labels)
    if suffix == ".npz":
        return _archives([path], key, labels)
    if suffix == ".parquet":
        return _parquet(path, labels)
    if suffix == ".h5ad":
        return _cells_in_file(path, key, labels)
    return None


def _opened_folder(path: Path, key: str | None, labels: Any) -> Opened | None:
    names = {each.name for each in path.iterdir()}
    if names & {"zarr.json", ".zarray", ".zgroup"}:
        library = imported("zarr", "zarr", str(path), install("zarr"))
        with naming(path):
            array = library.open(str(path), mode="r")
        return _single(zarr_array(array, key, path.name), labels)
    if names >= {"dataset_info.json", "state.json"}:
        library = imported("datasets", "datasets", str(path), install("datasets"))
        with naming(path):
            saved = library.load_from_disk(str(path))
        return _columns(saved if saved.format["type"] else saved.with_format("torch"), key, labels)
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in (".npy", ".npz", ".parquet"))
    kinds = {each.suffix.lower() for each in files}
    if not files:
        return None
    if len(kinds) > 1 or len(files) < len(names):
        others = sorted(names - {each.name for each in files}) or sorted(kinds)
        raise ValueError(f"{path}: found {len(files)} files of arrays and {', '.join(others[:5])}, expected one kind")
    if kinds == {".parquet"}:
        return _parquet(path, labels)
    if kinds == {".npz"}:
        return _archives(files, key, labels)
    found = [npy_segment(file) for file in files]
    _, shape, dtype = found[0]
    for segment, other, kind in found:
        if (other, kind) != (shape, dtype):
            raise ValueError(
                f"{segment.path}: found rows {other} of {kind}, expected {shape} of {dtype} as in the first file"
            )
    return _single(RawFiles([segment for segment, *_ in found], shape, dtype, path.name), labels)


def _archives(paths: list[Path], key: str | None, labels: Any) -> Opened:
    named = labels if isinstance(labels, str) else None
    shards = npz_shards(paths, key, named)
    if named is not None:
        labels = np.concatenate([Archive(path).read(named) for path in paths])
    return Opened(Arguments(shards), shards.title, labels)


def _parquet(path: Path, labels: Any) -> Opened:
    library = imported("pyarrow.dataset", "pyarrow", str(path), install("tables"))
    with naming(path):
        dataset = library.dataset(str(path), format="parquet")
    return _tables(dataset, labels, path.name)


def _tables(dataset: Any, labels: Any, title: str) -> Opened:
    named = labels if isinstance(labels, str) else None
    if named is not None and named not in dataset.schema.names:
        raise ValueError(f"labels: found {labels!r}, expected one of the columns {', '.join(dataset.schema.names)}")
    groups = row_groups(dataset, named, title)
    if named is not None:
        labels = np.array(dataset.to_table(columns=[named]).column(named).to_pylist(), object)
    return Opened(Arguments(groups), title, labels)


def _columns(dataset: Any, key: str | None, labels: Any) -> Opened:
    names, title = list(dataset.column_names), "the data set of datasets"
    for option, name in {"key": key, "labels": labels}.items():
        if isinstance(name, str) and name not in names:
            raise ValueError(f"{option}: found {name!r}, expected one of the columns {', '.join(names)}")
    if isinstance(labels, str):
        dataset, labels = dataset.remove_columns([labels]), np.array(dataset.with_format(None)[labels][:], object)
    columns = columns_of(dataset if key is None else dataset.select_columns([key]))
    if len(columns) == 1:
        return Opened(Arguments(*columns.values()), title, labels)
    return Opened(Arguments(**columns), title, labels)


def _cells(cells: Any, key: str | None, labels: Any) -> Opened:
    """Return the ``X`` of an AnnData that is backed by its file."""
    if key is not None:
        layers = ", ".join(map(repr, cells.layers)) or "none"
        raise ValueError(f"key: found {key!r}, expected one of the layers of the AnnData, {layers}")
    if cells.is_view:
        raise ValueError(
            "data: found a part of an AnnData backed by its file, expected all of it, which pyro_vae.data.load splits"
        )
    if isinstance(labels, str):
        labels = column(cells.obs, labels)
    storage = hdf5(cells.X)
    return Opened(Arguments(storage), storage.title, labels)


def _cells_in_file(path: Path, key: str | None, labels: Any) -> Opened:
    """Return the ``X`` or a layer of an AnnData file, whose layers ``read_h5ad`` would read whole."""
    library = imported("anndata.io", "anndata", str(path), install("cells"))
    name = "X" if key is None else f"layers/{key}"
    with naming(path):
        file = imported("h5py", "h5py", str(path), install("cells")).File(path, "r")
    if name not in file:
        layers = ", ".join(map(repr, file.get("layers", {}))) or "none"
        raise ValueError(f"key: found {key!r} and no {name} in {path.name}, expected one of the layers {layers}")
    if isinstance(labels, str):
        labels = column(library.read_elem(file["obs"]), labels)
    found = file[name]
    storage = hdf5(found if hasattr(found, "shape") else library.sparse_dataset(found))
    return Opened(Arguments(storage), storage.title, labels)
