r"""A name or an array in, training, validation and test data out.

Published numbers hang on details of the data: which images are held out, and which bits a grey image becomes. Here
both are fixed. Splits do not depend on the seed (see :func:`load`), and under ``binarize="dynamic"``, the protocol of
Burda et al. (2015), only training images are drawn anew at each use: validation and test images are drawn once, so that
two runs, on whatever devices, score the same bits.

Every random choice here comes from ``numpy.random.RandomState``, whose streams NumPy has promised never to change (NEP
19), and none from a global generator.

Files are looked for in a folder and, where missing, downloaded to it. A download reaches its final name only when it is
complete and its checksum is right, so one that was killed starts again as if it had never been (all it can leave behind
is a hidden temporary file or folder).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array
from pyro_vae.data.batches import Binarize, Split, check_probabilities
from pyro_vae.data.dequantisation import dequantize as dequantized
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.files import replacing
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.objects import Data, Instances, OrNone

__all__ = ["Binarize", "Name", "Split", "Splits", "load"]

Name: TypeAlias = Literal["digits", "mnist", "fashion_mnist", "frey_faces"]


@dataclass(frozen=True)
class Splits:
    """What :func:`load` returns: ``train``, ``valid`` and ``test``, and the ``name`` they were loaded by."""

    train: Split
    valid: Split
    test: Split
    name: str

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.train.data_shape


@checked
def load(
    name: Annotated[Name | Tensor | npt.NDArray[Any], Data("a name, or data, dense and with their values")],
    root: PathLike | None = None,
    binarize: Annotated[
        Binarize | Literal["auto"] | None, OrNone("", Instances("a mode, or None", str, True))
    ] = "auto",
    *,
    seed: Annotated[int, Integers("an integer between 0 and 2**32 - 1", 0, 2**32 - 1)] = 0,
    labels: Annotated[Tensor | npt.NDArray[Any] | None, Data("labels, dense and with their values")] = None,
    dequantize: bool = False,
) -> Splits:
    r"""Load a data set by name, or split an array of your own. The splits lie on the CPU.

    =================  ============  ========================  =================================================
    name               data shape    train / valid / test      order, of which the end is held out
    =================  ============  ========================  =================================================
    ``digits``         ``(8, 8)``    1,297 / 250 / 250         ``RandomState(0).permutation(1797)``
    ``mnist``          ``(28, 28)``  50,000 / 10,000 / 10,000  as published: 60,000 for training, 10,000 for tests
    ``fashion_mnist``  ``(28, 28)``  50,000 / 10,000 / 10,000  the same
    ``frey_faces``     ``(28, 20)``  1,500 / 100 / 365         ``RandomState(0).permutation(1965)``
    an array           its own       80 / 10 / 10 %            ``RandomState(seed).permutation(N)``
    =================  ============  ========================  =================================================

    Parameters
    ----------
    name
        One of the names above, or a tensor or array ``(N, *data_shape)`` of at least 10 data. Bytes (uint8) are
        grey levels 0..255, and read as [0, 1], unless none is above 1; other numbers are taken as they are.
    root
        The folder that holds, or shall hold, ``MNIST/raw/*``, ``FashionMNIST/raw/*`` (torchvision's layout) and
        ``FreyFace/frey_rawface.mat``; by default the environment variable ``PYRO_VAE_DATA`` names it, else it is
        ``$XDG_CACHE_HOME/pyro_vae`` or ``~/.cache/pyro_vae``.
    binarize
        ``"dynamic"``: training data are a new Bernoulli draw from the grey levels at each use, validation and
        test data one draw by ``seed``. ``"static"``: all are one draw by ``seed``. ``"threshold"``: 1 where the
        grey level is above 0.5. ``None``: as they are. ``"auto"``: ``"dynamic"`` for the black and white images
        (digits and both MNIST), ``None`` for the Frey faces and for arrays.
    seed
        Of the bits that are drawn once and of the split of an array, 0 or more and below 2**32.
    labels
        ``(N,)`` integers that go with an array; the named sets bring their own, the Frey faces have none.
    dequantize
        Make real numbers in [0, 1) of grey levels, for a density, by noise (:mod:`pyro_vae.data.dequantisation`): of
        training data anew at each use, of validation and test data once, by ``seed``. ``"auto"`` is then ``None``.

    Raises
    ------
    ValueError
        For an unknown name or mode, values outside [0, 1] that are to be binarised, values that are to be dequantised
        and are binarised or no grey levels, an array that is empty, not finite or too small to be split, labels that do
        not fit, and a file that is truncated or corrupt.
    TypeError
        For anything but a name, a tensor or an array of numbers.
    FileNotFoundError
        For a file that is missing and cannot be downloaded; it says what to put where.
    ImportError
        If the library that a named set comes with is missing or broken.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.train
    Split(1297 x (8, 8), grey levels 0..16 binarised at each use, on cpu)
    >>> digits.test
    Split(250 x (8, 8), bits drawn once, on cpu)
    >>> load(torch.rand(50, 3)).data_shape
    (3,)
    """
    if binarize not in ("auto", None, *get_args(Binarize)):
        raise ValueError(f"binarize must be one of {('auto', *get_args(Binarize))} or None, found {binarize!r}")
    if isinstance(name, str):
        if labels is not None:
            raise ValueError(f"labels go with an array of your own, but the data are {name!r}")
        source, title = _named(name, _folder(root)), str(name)
    else:
        source, title = _own(name, labels, seed), "array"
    if binarize == "auto":
        binarize = "dynamic" if source.black_and_white and not dequantize else None

    splits, start = [], 0
    for part, size in enumerate(source.sizes):
        rows = torch.from_numpy(source.order[start : start + size])
        values = source.values[rows]  # indexing by a tensor copies, so no split keeps another's memory alive
        split = Split(values, levels=source.levels, labels=None if source.labels is None else source.labels[rows])
        random = np.random.RandomState([seed, part])
        if dequantize:
            splits.append(_dequantised(split, binarize, redraw=part == 0, random=random))
        else:
            splits.append(_binarised(split, binarize, redraw=part == 0, random=random))
        start += size
    train, valid, test = splits
    return Splits(train, valid, test, title)


def _binarised(split: Split, mode: Binarize | None, redraw: bool, random: np.random.RandomState) -> Split:
    if mode is None:
        return split
    check_probabilities(split, f"binarize={mode!r}")
    if mode == "dynamic" and redraw:
        return Split(split.values, levels=split.levels, binarize="dynamic", labels=split.labels)
    bits = []
    for values in torch.split(split.values, 1_000):  # float64 copies of a whole training set would take gigabytes
        grey = values.double().numpy() / split.levels  # (1000, *data_shape)
        bits.append(torch.from_numpy(grey > (0.5 if mode == "threshold" else random.random_sample(grey.shape))))
    return Split(torch.cat(bits).byte(), binarize="threshold" if mode == "threshold" else "static", labels=split.labels)


def _dequantised(split: Split, mode: Binarize | None, redraw: bool, random: np.random.RandomState) -> Split:
    once = Split(split.values, levels=split.levels, binarize=mode, labels=split.labels, dequantize=True)
    if redraw:
        return once
    values = []
    for levels in torch.split(split.values, 1_000):
        noise = torch.from_numpy(random.random_sample(levels.shape))  # (1000, *data_shape), float64
        values.append(dequantized(levels.float(), split.levels + 1, noise.float()))
    return Split(torch.cat(values), labels=split.labels)


class _Source(NamedTuple):
    """Data before they are split: rows of ``order``, cut into pieces of ``sizes``, are train, valid and test."""

    values: Tensor  # (N, *data_shape)
    labels: Tensor | None  # (N,)
    levels: int
    black_and_white: bool
    order: npt.NDArray[np.int64]  # (N,)
    sizes: tuple[int, int, int]


def _named(name: str, folder: Path) -> _Source:
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist(name, "MNIST", folder)
    if name == "fashion_mnist":
        return _mnist(name, "FashionMNIST", folder)
    if name == "frey_faces":
        return _frey_faces(folder)
    raise ValueError(f"name must be one of {get_args(Name)}, or a tensor or array, found {name!r}")


def _own(data: object, labels: object, seed: int) -> _Source:
    values = check_array(data, "data").cpu()
    n = len(values)
    if n < 10:
        raise ValueError(f"at least 10 data are needed for a split of 80/10/10 %, found {n}")
    if labels is not None:
        labels = check_array(labels, "labels").cpu()
        if labels.shape != (n,) or not torch.equal(labels, labels.long()):  # 0., 1. as a table has them are labels too
            raise ValueError(f"labels must be {n} integers, found shape {tuple(labels.shape)}, dtype {labels.dtype}")
        labels = labels.long()
    levels = 255 if values.dtype == torch.uint8 and values.max() > 1 else 1
    values = values.byte() if values.dtype == torch.bool else values
    order = np.random.RandomState(seed).permutation(n)
    return _Source(values, labels, levels, False, order, (n - 2 * (n // 10), n // 10, n // 10))


def _digits() -> _Source:
    sklearn = _imported("sklearn.datasets", "scikit-learn", "digits", "pip install scikit-learn")
    images, labels = sklearn.load_digits(return_X_y=True)  # (1797, 64), values 0..16
    values = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 8, 8)
    order = np.random.RandomState(0).permutation(len(values))
    return _Source(values, torch.from_numpy(labels).long(), 16, True, order, (1_297, 250, 250))


# The four files of an MNIST: IDX format, bytes.
_IDX_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def _mnist(name: str, class_name: str, folder: Path) -> _Source:
    fix = "install the pair that belongs together, both from one index: pip install --force-reinstall torch torchvision"
    dataset = getattr(_imported("torchvision.datasets", "torchvision", name, fix), class_name)
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
    return _Source(values, labels, 255, True, np.arange(70_000), (50_000, 10_000, 10_000))


def _check_idx(path: Path, shape: tuple[int, ...]) -> None:
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)  # type byte, number of sizes, sizes
    with path.open("rb") as file:
        if file.read(len(header)) != header or path.stat().st_size != len(header) + prod(shape):
            raise _corrupt(path, f"it is not an IDX file of {shape} bytes")


_FREY_URL = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
_FREY_SHA256 = "550eae79320df8860495da26be88f5b9d7acf9a666fa83b80ad55a0a8a44f348"


def _frey_faces(folder: Path) -> _Source:
    scipy = _imported("scipy.io", "scipy", "frey_faces", "pip install scipy")
    path = folder / "FreyFace" / "frey_rawface.mat"
    if not path.is_file():
        with _saying_where("frey_faces", path.parent, [path.name]), replacing(path) as temporary:
            torch.hub.download_url_to_file(_FREY_URL, str(temporary), hash_prefix=_FREY_SHA256)
    if hashlib.sha256(path.read_bytes()).hexdigest() != _FREY_SHA256:
        raise _corrupt(path, f"its SHA-256 is not that of {_FREY_URL}")
    columns = scipy.loadmat(path)["ff"]  # (560, 1965), a column is one image, row by row
    values = torch.from_numpy(columns.T.reshape(-1, 28, 20).copy())
    order = np.random.RandomState(0).permutation(len(values))
    return _Source(values, None, 255, False, order, (1_500, 100, 365))


def _folder(root: str | os.PathLike[str] | None) -> Path:
    if root is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        root = os.environ.get("PYRO_VAE_DATA") or cache / "pyro_vae"
    return Path(root).expanduser()


def _imported(module: str, package: str, name: str, fix: str) -> Any:
    """Import ``module`` when its data are asked for, and not before: a broken torchvision must break nothing else."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        try:
            found = f"{package} {version(package)} with torch {version('torch')}"
        except PackageNotFoundError:
            found = f"no {package} with torch {version('torch')}"
        raise ImportError(f"{name} needs {package}, and importing it failed (found {found}): {fix}") from error


@contextmanager
def _saying_where(name: str, folder: Path, files: list[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:  # torchvision and torch.hub report in all three
        raise FileNotFoundError(
            f"{name} could not be downloaded: put {', '.join(files)} into {folder}, or say by root= or the environment "
            f"variable PYRO_VAE_DATA which folder holds them"
        ) from error


def _corrupt(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is truncated or corrupt ({reason}): delete it and load again")
