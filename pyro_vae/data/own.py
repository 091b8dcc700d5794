"""Data of every kind as an array with its labels: arrays, frames, sparse matrices, data sets, files and folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.data.channels import Channels, channels_first
from pyro_vae.data.files import SUFFIXES, Archive, read_file
from pyro_vae.data.frames import column, is_frame, numbers_of, without
from pyro_vae.data.images import read_folder
from pyro_vae.data.opening import Opened, opened
from pyro_vae.data.pairs import read_pairs
from pyro_vae.data.sources import Name
from pyro_vae.data.sparse import check_sparse, is_sparse
from pyro_vae.data.split import Split
from pyro_vae.runtime.foreign import comes_from

__all__ = ["Options", "Own", "read_own"]


class Own(NamedTuple):
    """Data before they are checked and split."""

    values: Any  # (N, *data_shape), an array, a tensor or a sparse matrix
    labels: Any = None  # (N,), integers or names
    classes: tuple[str, ...] | None = None
    title: str = "array"


class Options(NamedTuple):
    """How data are read, where there is a choice; ``None`` and ``"auto"`` for what was not said."""

    labels: Any
    key: str | None
    size: tuple[int, int] | None
    channels: Channels

    def only(self, kind: str, *names: str) -> None:
        """Raise ``ValueError`` for an option that a kind of data has no use for."""
        for name, default in {"key": None, "size": None, "channels": "auto"}.items():
            value = getattr(self, name)
            if name not in names and value != default:
                raise ValueError(f"{name}: found {value!r} for {kind}, expected none, since it has no use there")
        if isinstance(self.labels, str) and "labels" not in names:
            raise ValueError(f"labels: found {self.labels!r} for {kind}, expected integers or names (N,)")


def read_own(data: Any, options: Options) -> Own:
    """Return data of any kind as an array with its labels.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError
        As in :func:`pyro_vae.data.load`.
    """
    title = "array"
    if isinstance(data, (str, os.PathLike)):
        path = _existing(data)
        found = opened(path, options.key, options.labels) if path.is_dir() else None
        if found is None and path.is_dir():
            return _folder(path, options)
        data, title = read_file(path) if found is None else None, path.name
    else:
        found = opened(data, options.key, options.labels)
    if found is not None:
        own = _whole(found, options)
    elif isinstance(data, Archive):
        own = _archive(data, options)
    elif comes_from(data, "anndata") and hasattr(data, "obs"):
        own = _cells(data, options)
    elif is_frame(data):
        options.only("a table", "labels")
        own = _frame(data, options.labels)
    elif is_sparse(data):
        options.only("a sparse matrix")
        own = Own(data, options.labels)
    elif isinstance(data, Dataset) and not isinstance(data, Split):
        options.only("a data set", "channels")
        values, labels, classes = read_pairs(data)
        given = options.labels is not None
        own = Own(values, options.labels if given else labels, None if given else classes)
    else:
        options.only("an array", "channels")
        own = Own(data, options.labels)
    return own._replace(values=_checked(own.values, options), title=title if found is None else found.title)


def _whole(found: Opened, options: Options) -> Own:
    """Return data that could stay on disk as an array."""
    options.only("data of this kind", "key", "labels", "channels")
    if len(found.columns.values) != 1:
        raise ValueError(f"key: found none for {len(found.columns.values)} columns, expected the name of the data's")
    return Own(found.whole(), found.labels)


def _checked(values: Any, options: Options) -> Any:
    if is_sparse(values):
        return check_sparse(values, "data")
    is_array = isinstance(values, (Tensor, np.ndarray))
    return channels_first(values, options.channels) if is_array else values


def _existing(name: str | os.PathLike[str]) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        return path
    if isinstance(name, str) and os.sep not in name and not path.suffix:
        raise ValueError(
            f"name: found {name!r}, expected one of {get_args(Name)}, or a tensor or array, or the path of a folder or "
            "file that exists"
        )
    raise FileNotFoundError(
        f"data: found no file or folder {str(path)!r}, expected a folder of pictures, or a file {', '.join(SUFFIXES)}"
    )


def _folder(path: Path, options: Options) -> Own:
    options.only("a folder", "size", "labels")
    if options.labels is not None:
        raise ValueError(f"labels: found some for the folder {path}, expected pictures in the subfolder of their class")
    return Own(*read_folder(path, options.size), title=path.name)


def _archive(archive: Archive, options: Options) -> Own:
    options.only("an .npz file", "key", "channels", "labels")
    labels, names = options.labels, list(archive.names)
    if isinstance(labels, str):
        labels, names = archive.read(labels), [name for name in names if name != options.labels]
    if options.key is None and len(names) != 1:
        raise ValueError(
            f"{archive.path}: found the arrays {', '.join(archive.names) or 'none'}, expected one; key= names that of "
            "the data, and labels= may name that of the labels"
        )
    return Own(archive.read(options.key or names[0]), labels)


def _frame(frame: Any, labels: Any) -> Own:
    if isinstance(labels, str):
        named = column(frame, labels)  # first, as it may be missing
        return Own(numbers_of(without(frame, labels)), named)
    return Own(numbers_of(frame), labels)


def _cells(cells: Any, options: Options) -> Own:
    """Return the matrix of an AnnData, or one of its layers."""
    options.only("an AnnData", "key", "labels")
    if options.key is not None and options.key not in cells.layers:
        layers = ", ".join(map(repr, cells.layers)) or "none"
        raise ValueError(f"key: found {options.key!r}, expected one of the layers of the AnnData, {layers}")
    values = cells.X if options.key is None else cells.layers[options.key]
    if values is None:
        raise ValueError(
            f"data: found an AnnData without X, expected key= to name one of its layers {list(cells.layers)}"
        )
    labels = column(cells.obs, options.labels) if isinstance(options.labels, str) else options.labels
    return Own(values, labels)
