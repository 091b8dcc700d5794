"""Sources of data: files, downloaded if missing, a library, or an array.

A download gets its final name only once it is complete and its checksum is right. A download that was killed is
repeated from the start; it can leave nothing behind but a hidden temporary file or folder.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array
from pyro_vae.data.classes import coded
from pyro_vae.data.sparse import Rows, is_sparse
from pyro_vae.runtime.files import replacing
from pyro_vae.runtime.optional import imported, install

__all__ = ["Name"]

Name: TypeAlias = Literal["digits", "mnist", "fashion_mnist", "frey_faces"]


class Source(NamedTuple):
    """Data before they are split; ``order`` is cut into pieces of ``sizes``, the rows of train, valid and test."""

    values: Tensor | Rows  # (N, *data_shape)
    labels: Tensor | None  # (N,)
    levels: int
    black_and_white: bool
    order: npt.NDArray[np.int64]  # (N,)
    sizes: tuple[int, int, int]


def named_source(name: str, folder: Path) -> Source:
    """Return a data set by its name."""
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist(name, "MNIST", folder)
    if name == "fashion_mnist":
        return _mnist(name, "FashionMNIST", folder)
    if name == "frey_faces":
        return _frey_faces(folder)
    raise ValueError(f"name: found {name!r}, expected one of {get_args(Name)}, or a tensor or array")


def own_source(
    data: object, labels: object, seed: int, is_split: bool = True, levels_of: Callable[[Tensor], int] | None = None
) -> tuple[Source, tuple[str, ...] | None]:
    """Return an array or a sparse matrix of the user's own, in an order drawn by ``seed``, and the names of classes.

    Data that are not split keep their order. ``levels_of`` says what stands for 1; by default it is 255 for bytes,
    unless none is above 1.
    """
    values: Tensor | Rows = data if is_sparse(data) else check_array(data, "data").cpu()
    n, classes = int(values.shape[0]), None
    order, sizes = pieces_of(n, seed) if is_split else (np.arange(n), (n - 2 * (n // 10), n // 10, n // 10))
    if labels is not None:
        labels, classes = coded(labels, n)
    levels = 1
    if isinstance(values, Tensor):
        levels = (levels_of or _levels)(values)
        values = values.byte() if values.dtype == torch.bool else values
    return Source(values, labels, levels, False, order, sizes), classes


def _levels(values: Tensor) -> int:
    return 255 if values.dtype == torch.uint8 and values.max() > 1 else 1


def pieces_of(num_data: int, seed: int) -> tuple[npt.NDArray[np.int64], tuple[int, int, int]]:
    """Return the order of data of the user's own, and how many of them are for training, validation and tests."""
    if num_data < 10:
        raise ValueError(f"data: found {num_data} of them, expected at least 10 for a split of 80/10/10 %")
    tenth = num_data // 10
    return np.random.RandomState(seed).permutation(num_data), (num_data - 2 * tenth, tenth, tenth)


def _digits() -> Source:
    sklearn = imported("sklearn.datasets", "scikit-learn", "digits", install("images"))
    images, labels = sklearn.load_digits(return_X_y=True)  # (1797, 64), values 0..16
    values = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 8, 8)
    order = np.random.RandomState(0).permutation(len(values))
    return Source(values, torch.from_numpy(labels).long(), 16, True, order, (1_297, 250, 250))


# The files of MNIST and of Fashion-MNIST, bytes in the IDX format.
_IDX_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def _mnist(name: str, class_name: str, folder: Path) -> Source:
    pair = "the pair that belongs together, both from one index: pip install --force-reinstall torch torchvision"
    library = imported("torchvision.datasets", "torchvision", name, install("images"), f"install {pair}")
    dataset = getattr(library, class_name)
    raw = folder / class_name / "raw"
    missing = [file for file in _IDX_SHAPES if not (raw / file).is_file()]
    if missing:
        with _saying_where(name, raw, missing):
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=f".{class_name}.") as partial:
                dataset(partial, download=True)  # torchvision checks the MD5 of each archive
                for file in missing:
                    with replacing(raw / file) as temporary:
                        (Path(partial) / class_name / "raw" / file).replace(temporary)
    for file, shape in _IDX_SHAPES.items():
        _check_idx(raw / file, shape)
    parts = [dataset(folder, train=True), dataset(folder, train=False)]
    values, labels = torch.cat([part.data for part in parts]), torch.cat([part.targets for part in parts])
    return Source(values, labels, 255, True, np.arange(70_000), (50_000, 10_000, 10_000))


def _check_idx(path: Path, shape: tuple[int, ...]) -> None:
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)  # type byte, number of sizes, sizes
    with path.open("rb") as file:
        if file.read(len(header)) != header or path.stat().st_size != len(header) + prod(shape):
            raise _corrupt(path, f"it is not an IDX file of {shape} bytes")


_FREY_URL = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
_FREY_SHA256 = "550eae79320df8860495da26be88f5b9d7acf9a666fa83b80ad55a0a8a44f348"


def _frey_faces(folder: Path) -> Source:
    scipy = imported("scipy.io", "scipy", "frey_faces", install("images"))
    path = folder / "FreyFace" / "frey_rawface.mat"
    if not path.is_file():
        with _saying_where("frey_faces", path.parent, [path.name]), replacing(path) as temporary:
            torch.hub.download_url_to_file(_FREY_URL, str(temporary), hash_prefix=_FREY_SHA256)
    if hashlib.sha256(path.read_bytes()).hexdigest() != _FREY_SHA256:
        raise _corrupt(path, f"its SHA-256 is not that of {_FREY_URL}")
    columns = scipy.loadmat(path)["ff"]  # (560, 1965), a column is one image, row by row
    values = torch.from_numpy(columns.T.reshape(-1, 28, 20).copy())
    order = np.random.RandomState(0).permutation(len(values))
    return Source(values, None, 255, False, order, (1_500, 100, 365))


def data_folder(root: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the data: ``root``, that of the environment, or one in the user's cache."""
    if root is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        root = os.environ.get("PYRO_VAE_DATA") or cache / "pyro_vae"
    return Path(root).expanduser()


@contextmanager
def _saying_where(name: str, folder: Path, files: list[str]) -> Iterator[None]:
    """Raise ``FileNotFoundError`` if a download fails, with the place where the files may be put by hand."""
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:  # torchvision and torch.hub raise all three
        raise FileNotFoundError(
            f"{name}: found a download that failed, expected {', '.join(files)} in {folder}: put them there, or say by "
            "root= or the environment variable PYRO_VAE_DATA which folder holds them"
        ) from error


def _corrupt(path: Path, reason: str) -> ValueError:
    found = f"{path}: found a truncated or corrupt file ({reason})"
    return ValueError(f"{found}, expected a whole one: delete it and load again")
