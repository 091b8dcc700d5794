r"""Training, validation and test data, from the name of a data set or from data of one's own.

Published numbers depend on details of the data: which images are held out, and which bits a grey image becomes. Both
are fixed here. The splits of a named data set do not depend on the seed (see :func:`load`). With
``binarize="dynamic"``, the protocol of Burda et al. (2015), only training images are drawn anew at each use. Validation
and test images are drawn once, so that two runs score the same bits on any device.

All random choices come from ``numpy.random.RandomState``, whose streams NumPy has promised never to change (NEP 19),
and none from a global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.channels import Channels
from pyro_vae.data.dequantisation import dequantize as dequantized
from pyro_vae.data.own import Options, read_own
from pyro_vae.data.sources import Name, Source, data_folder, named_source, own_source
from pyro_vae.data.sparse import SparseSplit, is_sparse
from pyro_vae.data.split import Binarize, Split, check_probabilities
from pyro_vae.data.splits import Splits
from pyro_vae.data.stored_splits import stored_splits
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.kinds import Integers, Sizes
from pyro_vae.runtime.objects import Data, Instances, OrNone

__all__ = ["Binarize", "Split", "Splits", "load", "load_whole"]


@checked
def load(
    name: Annotated[Any, Data("a name, a path, or data, dense and with their values")],
    root: PathLike | None = None,
    binarize: Annotated[
        Binarize | Literal["auto"] | None, OrNone("", Instances("a mode, or None", str, True))
    ] = "auto",
    *,
    seed: Annotated[int, Integers("an integer between 0 and 2**32 - 1", 0, 2**32 - 1)] = 0,
    labels: Annotated[Any, Data("labels, dense and with their values")] = None,
    dequantize: bool = False,
    key: str | None = None,
    size: Annotated[int | Sequence[int] | None, OrNone("", Sizes("a height and a width", or_one=True))] = None,
    channels: Channels = "auto",
    in_memory: bool | None = None,
) -> Splits:
    r"""Load a data set by name, or split data of your own, on the CPU.

    =================  ============  ========================  =================================================
    name               data shape    train / valid / test      order, of which the end is held out
    =================  ============  ========================  =================================================
    ``digits``         ``(8, 8)``    1,297 / 250 / 250         ``RandomState(0).permutation(1797)``
    ``mnist``          ``(28, 28)``  50,000 / 10,000 / 10,000  as published: 60,000 for training, 10,000 for tests
    ``fashion_mnist``  ``(28, 28)``  50,000 / 10,000 / 10,000  the same
    ``frey_faces``     ``(28, 20)``  1,500 / 100 / 365         ``RandomState(0).permutation(1965)``
    data of your own   its own       80 / 10 / 10 %            ``RandomState(seed).permutation(N)``
    =================  ============  ========================  =================================================

    Parameters
    ----------
    name
        One of the names above, or at least 10 data of your own:

        * a tensor or array ``(N, *data_shape)``. Bytes (uint8) are read as grey levels 0..255 and scaled to [0, 1],
          unless none is above 1. Other numbers are taken as they are.
        * the path of a folder of pictures, PNG or JPEG, which are read as bytes ``(N, H, W)`` in grey or ``(N, 3, H,
          W)`` in colour. Subfolders are classes.
        * the path of a file: ``.npy``, ``.npz``, ``.parquet``, ``.csv``, ``.tsv`` or ``.h5ad``; of a folder of
          ``.npy``, ``.npz`` or ``.parquet`` files with parts of one array; of an array or group of zarr.
        * a frame of pandas or polars, of which each column is numbers.
        * a sparse matrix of scipy ``(N, D)`` or an ``AnnData``. Its rows stay sparse until they are in a batch
          (:class:`~pyro_vae.data.sparse.SparseSplit`).
        * an array of zarr or h5py, a data set of Hugging Face's ``datasets`` (in the format of torch) or of pyarrow.
        * a ``Dataset`` of pictures, tensors or arrays, or of pairs of one and an integer label. It is read once.
    root
        The folder of ``MNIST/raw/*``, ``FashionMNIST/raw/*`` (torchvision's layout) and ``FreyFace/frey_rawface.mat``,
        to which missing files are downloaded. By default it is that of the environment variable ``PYRO_VAE_DATA``, else
        ``$XDG_CACHE_HOME/pyro_vae`` or ``~/.cache/pyro_vae``.
    binarize
        ``"dynamic"``: a new Bernoulli draw from the grey levels at each use for training data, one draw by ``seed`` for
        validation and test data. ``"static"``: one draw by ``seed`` for all. ``"threshold"``: 1 where the grey level is
        above 0.5. ``None``: the values as they are. ``"auto"``: ``"dynamic"`` for the black and white images (digits
        and both MNIST), ``None`` for the Frey faces and for arrays.
    seed
        The seed of bits that are drawn once and of the split of an array, from 0 to 2**32 - 1.
    labels
        Integers or names ``(N,)`` that belong to an array, or the name of a column of a table, of an array of an
        ``.npz`` file, or of a column of ``obs`` of an ``AnnData``. Names become integers in the order of ``classes`` of
        the result. Named data sets have their own labels, except the Frey faces, and so have folders of subfolders.
    dequantize
        Turn grey levels into real numbers in [0, 1) by noise (:mod:`pyro_vae.data.dequantisation`), so that a density
        can model them: anew at each use for training data, once by ``seed`` for validation and test data. With it,
        ``"auto"`` means ``None``.
    key
        The array of an ``.npz`` file, or the layer of an ``AnnData`` in place of its ``X``.
    size
        Height and width, or one number for both, to which the pictures of a folder are resized. By default all must
        have one size.
    channels
        Where the channels of an array ``(N, ?, ?, ?)`` are: ``"first"``, ``"last"``, from where they are moved to the
        first place, or ``"auto"``, which refuses an array that seems to have them last.
    in_memory
        Whether to read data on disk whole; if not, they stay there and are read as they are used (:class:`Stored`). By
        default they are read where they take less than a quarter of the memory (:mod:`pyro_vae.data.opening`).

    Raises
    ------
    ValueError
        For an unknown name or mode, data that are empty, not finite or too few to split, labels that do not fit, and a
        truncated or corrupt file; for pictures of several sizes, missing entries, and channels that seem to be last.
        Also for binarising values outside [0, 1], and for dequantising values that are
        binarised or not grey levels.
    TypeError
        For data of any other kind, and for columns that hold no numbers.
    FileNotFoundError
        If a file is missing, or cannot be downloaded; the message names the file and its place.
    ImportError
        If the library that reads the data is missing or broken; the message says how to install it.

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
        raise ValueError(f"binarize: found {binarize!r}, expected one of {('auto', *get_args(Binarize))} or None")
    classes: tuple[str, ...] | None = None
    if isinstance(name, str) and name in get_args(Name):
        if labels is not None:
            raise ValueError(f"labels: found some for the data set {name!r}, expected them for an array alone")
        given = {"key": key, "size": size, "channels": None if channels == "auto" else channels}
        if unused := [word for word, value in given.items() if value is not None]:
            raise ValueError(f"{unused[0]}: found one for the data set {name!r}, expected none, as it has no use there")
        source, title = named_source(name, data_folder(root)), str(name)
    else:
        options = Options(labels, key, _height_and_width(size), channels)
        if (stored := stored_splits(name, options, seed, in_memory)) is not None:
            _check_plain(binarize, dequantize, "data on disk", "in_memory=True")
            parts, title, classes = stored
            return Splits(parts[0], parts[1], parts[2], title, classes)
        own = read_own(name, options)
        title = own.title
        source, classes = own_source(own.values, own.labels, seed)
        classes = classes or own.classes
    if binarize == "auto":
        binarize = "dynamic" if source.black_and_white and not dequantize else None

    splits, start = [], 0
    for part, num_data in enumerate(source.sizes):
        rows = torch.from_numpy(source.order[start : start + num_data])
        splits.append(_split(source, rows, binarize, dequantize, part, seed))
        start += num_data
    train, valid, test = splits
    return Splits(train, valid, test, title, classes)


def load_whole(
    data: Any, binarize: Binarize | None = None, *, seed: int = 0, labels: Any = None, key: str | None = None,
    size: int | Sequence[int] | None = None, channels: Channels = "auto",
    levels_of: Callable[[Tensor], int] | None = None,
) -> Split | SparseSplit:  # fmt: skip
    """Return data of one's own as :func:`load` returns test data: all of them, in their order, with bits drawn once.

    ``levels_of`` says which of the values stands for 1; by default it is as for :func:`load`.
    """
    own = read_own(data, Options(labels, key, _height_and_width(size), channels))
    source, _ = own_source(own.values, own.labels, seed, is_split=False, levels_of=levels_of)
    return _split(source, torch.from_numpy(source.order), binarize, dequantize=False, part=2, seed=seed)


def _height_and_width(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sizes = [size, size] if isinstance(size, int) else list(map(int, size))
    if len(sizes) != 2:
        raise ValueError(f"size: found {size!r}, expected a height and a width, or one number for both")
    return sizes[0], sizes[1]


def _split(
    source: Source, rows: Tensor, binarize: Binarize | None, dequantize: bool, part: int, seed: int
) -> Split | SparseSplit:
    """Return some rows as training (part 0), validation or test data."""
    labels = None if source.labels is None else source.labels[rows]
    if is_sparse(source.values):
        _check_plain(binarize, dequantize, "sparse data", "x.toarray()")
        return SparseSplit(source.values[rows.numpy()], labels=labels)
    # indexing by a tensor copies, so no split keeps another's memory alive
    split = Split(source.values[rows], levels=source.levels, labels=labels)
    random = np.random.RandomState([seed, part])
    made = _dequantised if dequantize else _binarised
    return made(split, binarize, redraw=part == 0, random=random)


def _check_plain(binarize: str | None, dequantize: bool, kind: str, instead: str) -> None:
    if binarize not in ("auto", None) or dequantize:
        raise ValueError(
            f"binarize, dequantize: found {binarize!r} and {dequantize} for {kind}, expected None and False; give "
            f"{instead} instead"
        )


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
    return Split(torch.cat(values), labels=split.labels, num_levels=split.levels + 1)
