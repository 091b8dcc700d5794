"""Say how objects of other libraries become arrays, for the messages that refuse them.

A library is recognised by the module of the object's class, so none is imported.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["advice", "comes_from"]


def comes_from(x: object, library: str) -> bool:
    """Return whether an object's class, or one that it inherits from, is defined in a library.

    >>> comes_from(np.zeros(3), "numpy"), comes_from([0.0], "numpy")
    (True, False)
    """
    return any(cls.__module__.partition(".")[0] == library for cls in type(x).__mro__)


def advice(x: Any) -> str:
    """Return how to turn an object into an array, as the end of a message; nothing if that is not known.

    >>> advice("photos/")
    '; pyro_vae.data.load(x) reads a name, a file or a folder'
    """
    if comes_from(x, "scipy") and hasattr(x, "toarray"):
        return "; x.toarray() is dense, and pyro_vae.data.load(x) keeps rows sparse until they are in a batch"
    if comes_from(x, "anndata"):
        return "; pyro_vae.data.load(x) splits it, and keeps rows sparse until they are in a batch"
    if type(x).__name__ in ("Series", "LazyFrame"):
        return f"; pyro_vae.data.load takes a frame, as x.{'collect' if hasattr(x, 'collect') else 'to_frame'}() is"
    if comes_from(x, "pandas") or comes_from(x, "polars"):
        return "; pyro_vae.data.load(x) takes columns of numbers, pyro_vae.Table.from_frame(x) takes mixed ones"
    if comes_from(x, "PIL"):
        return "; np.asarray(x) is an array, and pyro_vae.data.load reads a folder of images"
    if isinstance(x, (str, os.PathLike)):
        return "; pyro_vae.data.load(x) reads a name, a file or a folder"
    if isinstance(x, (list, tuple)):
        return "; torch.tensor(x) makes a tensor of numbers in lists"
    if isinstance(x, np.ndarray) and x.dtype.kind == "O":
        return "; x.astype(float) converts objects that are numbers, and pyro_vae.Table.from_frame takes categories"
    if isinstance(x, np.ndarray) and x.dtype.kind in "SU":
        return "; categories are taken as columns of a frame by pyro_vae.Table.from_frame"
    if isinstance(x, Tensor) and x.layout != torch.strided:
        return "; x.to_dense() is dense"
    if hasattr(x, "__array__") and not isinstance(x, (np.ndarray, Tensor, type)):
        return "; np.asarray(x) makes an array of it"
    return ""
