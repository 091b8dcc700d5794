"""One file of data: an array of NumPy, a table as Parquet or CSV, or cells as AnnData writes them.

No file is run: arrays of Python objects, which NumPy stores as pickles, are refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_vae.runtime.optional import imported, install

__all__ = ["SUFFIXES", "Archive", "naming", "read_file", "read_header"]

SUFFIXES = (".npy", ".npz", ".parquet", ".csv", ".tsv", ".h5ad")


class Archive:
    """The arrays of an ``.npz`` file, read by their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with naming(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            self.names = tuple(archive.files)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and the type of the array of a name, of which nothing else is read."""
        self._check(name)
        with naming(self.path), zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            shape, _, dtype = read_header(file)
        return shape, dtype

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise ValueError(f"{self.path}: found no array {name!r}, expected one of {', '.join(self.names)}")

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return the array of a name."""
        self._check(name)
        with naming(self.path), self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found: npt.NDArray[Any] = archive[name]
        return found


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether columns come first, and the type of the array that begins in an open file."""
    is_first = np.lib.format.read_magic(file) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, in_columns, dtype


def read_file(path: Path, texts: Collection[str | int] = ()) -> Any:
    """Return what a file holds: an array, an :class:`Archive`, a frame of pandas or an ``AnnData``.

    In a text file an empty field is missing. So are words such as ``NA`` and ``nan`` in a column of numbers; in one of
    strings, and in those named by ``texts``, they are strings like others.

    Raises
    ------
    ValueError
        For an unknown suffix, a truncated or corrupt file, an array of Python objects, and a CSV without a first row of
        names or with a column of row numbers.
    ImportError
        If the library that reads it is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with naming(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)  # which holds the size against the file's
    if suffix == ".npz":
        return Archive(path)
    if suffix == ".h5ad":
        library = imported("anndata", "anndata", str(path), install("cells"))
        with naming(path):
            return library.read_h5ad(path)
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: found the suffix {suffix or 'none'!r}, expected a folder of pictures, or one of "
            f"{', '.join(SUFFIXES)}"
        )
    pandas = imported("pandas", "pandas", str(path), install("tables"))
    if suffix == ".parquet":
        imported("pyarrow", "pyarrow", str(path), install("tables"))
        with naming(path):
            return pandas.read_parquet(path, engine="pyarrow")
    return _read_text(path, "\t" if suffix == ".tsv" else ",", texts, pandas)


def _read_text(path: Path, separator: str, texts: Collection[str | int], pandas: Any) -> Any:
    with naming(path):
        head = pandas.read_csv(path, sep=separator, header=None, nrows=1)
        frame = pandas.read_csv(path, sep=separator, float_precision="round_trip")
        places = [place for place, name in enumerate(frame) if name in texts or _holds_text(frame.iloc[:, place])]
        if places and isinstance(frame.index, pandas.RangeIndex):  # not where rows have more fields than names
            literal = pandas.read_csv(
                path, sep=separator, usecols=places, dtype=str, keep_default_na=False, na_values=[""]
            )
            for index, place in enumerate(places):
                frame.isetitem(place, literal.iloc[:, index])
    if all(dtype.kind in "if" for dtype in head.dtypes):
        raise ValueError(
            f"{path}: found numbers in the first row, expected the names of the columns; a file without them is read "
            f"by pandas.read_csv(path, sep={separator!r}, header=None), whose frame pyro_vae.data.load takes"
        )
    if str(frame.columns[0]).startswith("Unnamed: "):
        raise ValueError(
            f"{path}: found a first column without a name, which holds row numbers where pandas wrote the file, "
            f"expected data; it is left out by pandas.read_csv(path, sep={separator!r}, index_col=0), whose frame "
            "pyro_vae.data.load takes"
        )
    return frame


def _holds_text(values: Any) -> bool:
    """Return whether a column has a string, and not numbers, truth values or nothing alone."""
    return values.dtype.kind not in "biuf" and any(isinstance(value, str) for value in values)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise ``ValueError`` with the file's name where a library cannot read it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0]
        if "allow_pickle" in reason or "Python objects" in reason:
            reason = "it holds Python objects, which are not loaded, since they may run code; np.save(path, "
            reason += "x.astype(float)) stores numbers"
        raise ValueError(f"{path}: found a file that cannot be read ({reason}), expected a whole one") from error
