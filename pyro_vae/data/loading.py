r"""Training, validation and test data, from the name of a data set or from an array.

Published numbers depend on details of the data: which images are held out, and which bits a grey image becomes. Both
are fixed here. The splits of a named data set do not depend on the seed (see :func:`load`). With
``binarize="dynamic"``, the protocol of Burda et al. (2015), only training images are drawn anew at each use. Validation
and test images are drawn once, so that two runs score the same bits on any device.

All random choices come from ``numpy.random.RandomState``, whose streams NumPy has promised never to change (NEP 19),
and none from a global generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.data.dequantisation import dequantize as dequantized
from pyro_vae.data.sources import Name, data_folder, named_source, own_source
from pyro_vae.data.split import Binarize, Split, check_probabilities
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.objects import Data, Instances, OrNone

__all__ = ["Binarize", "Split", "Splits", "load"]


@dataclass(frozen=True)
class Splits:
    """The result of :func:`load`: ``train``, ``valid`` and ``test``, and the ``name`` of the data set."""

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
    r"""Load a data set by name, or split an array of your own, on the CPU.

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
        One of the names above, or a tensor or array ``(N, *data_shape)`` of at least 10 data. Bytes (uint8) are read as
        grey levels 0..255 and scaled to [0, 1], unless none is above 1. Other numbers are taken as they are.
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
        Integers ``(N,)`` that belong to an array. Named data sets have their own labels, except the Frey faces.
    dequantize
        Turn grey levels into real numbers in [0, 1) by noise (:mod:`pyro_vae.data.dequantisation`), so that a density
        can model them: anew at each use for training data, once by ``seed`` for validation and test data. With it,
        ``"auto"`` means ``None``.

    Raises
    ------
    ValueError
        For an unknown name or mode, an array that is empty, not finite or too small to split, labels that do not fit,
        and a truncated or corrupt file. Also for binarising values outside [0, 1], and for dequantising values that are
        binarised or not grey levels.
    TypeError
        For anything but a name, a tensor or an array of numbers.
    FileNotFoundError
        If a file is missing and cannot be downloaded; the message names the file and its place.
    ImportError
        If the library of a named data set is missing or broken.

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
    if isinstance(name, str):
        if labels is not None:
            raise ValueError(f"labels: found some for the data set {name!r}, expected them for an array alone")
        source, title = named_source(name, data_folder(root)), str(name)
    else:
        source, title = own_source(name, labels, seed), "array"
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
