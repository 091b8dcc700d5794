"""Checks of arrays, and their conversion to tensors without loss: masked and sparse data are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.runtime.foreign import advice

__all__ = ["MISSING", "as_tensor", "check_array", "check_exact", "check_finite", "check_whole", "kind_of"]


# What to do about NaN, behind a message.
MISSING = (
    "; if it stands for a missing entry, pyro_vae.pack(x) keeps a mask beside the data, for the programs of "
    "pyro_vae.observed_only"
)


def check_array(x: object, name: str, start: int = 0) -> Tensor:
    """Return ``x``, a tensor or array ``(N, *data_shape)`` of finite real numbers, as a tensor.

    ``start`` is the index of the first datum, for messages about a piece of an array.

    Raises
    ------
    TypeError
        For anything but a tensor or a NumPy array, and for arrays of objects, strings or complex numbers.
    ValueError
        If there is no datum or no first dimension, or if a number is NaN or infinite; the message gives its index.

    Examples
    --------
    >>> check_array(np.array([[0.0, 1.0], [np.nan, 2.0]]), "x")
    Traceback (most recent call last):
    ...
    ValueError: x: found nan at index (1, 0) of shape (2, 2), expected finite numbers; if it stands for ...
    """
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"{name}: found {kind_of(x)}, expected a tensor or a NumPy array{advice(x)}")
    check_whole(x, name)
    if x.dtype.is_complex if isinstance(x, Tensor) else x.dtype.kind not in "biuf":
        raise TypeError(f"{name}: found dtype {x.dtype}, expected real numbers{advice(x)}")
    if x.ndim == 0 or 0 in x.shape:
        raise ValueError(f"{name}: found shape {tuple(x.shape)}, expected data (N, *data_shape) with N of 1 or more")
    if isinstance(x, np.ndarray):  # torch takes neither foreign byte orders nor, without a warning, read-only memory
        x = torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))
    x = x.detach()
    if x.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch has few operations for these
        x = x.long()
    check_finite(x, name, start)
    return x


def check_finite(x: Tensor, name: str, start: int = 0) -> None:
    """Raise ``ValueError`` if a number is NaN or infinite; ``start`` is the index of the first datum."""
    if not x.is_floating_point() or bool((finite := torch.isfinite(x)).all()):
        return
    first, *others = (int(i) for i in np.unravel_index(int(finite.flatten().byte().argmin()), x.shape))
    value, where = x[(first, *others)], (start + first, *others)
    shape = f" of shape {tuple(x.shape)}" if start == 0 else ""
    raise ValueError(
        f"{name}: found {value.item()} at index {where}{shape}, expected finite numbers"
        f"{MISSING if value.isnan() else ''}"
    )


def check_whole(x: object, name: str) -> None:
    """Raise ``ValueError`` for a sparse tensor, and for an array with masked entries, which torch reads as data."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(
            f"{name}: found {int(np.ma.getmaskarray(x).sum())} masked entries of {x.size}, expected none; "
            "pyro_vae.pack keeps the mask beside the data, for the programs of pyro_vae.observed_only"
        )
    if isinstance(x, Tensor) and x.layout != torch.strided:
        raise ValueError(f"{name}: found a tensor of layout {x.layout}, expected a dense one, as x.to_dense() is")


def as_tensor(x: Any, name: str, device: torch.device | None = None) -> Tensor:
    """Return an array, a list or a tensor as a tensor, on ``device`` if one is given.

    Raises
    ------
    ValueError
        As in :func:`check_whole`.
    TypeError
        If ``x`` cannot become a tensor.
    """
    check_whole(x, name)
    try:
        return torch.as_tensor(x, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name}: found {kind_of(x)}, expected a tensor or an array of numbers: {error}") from error


def check_exact(x: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise ``ValueError`` if a floating point type cannot hold numbers: whole ones exactly, others at all.

    Numbers of a floating point type count as whole if all of them are.
    """
    exact = int(2 / torch.finfo(dtype).eps)  # the first whole number whose successor is rounded
    if x.is_floating_point():
        return _check_floats(x, dtype, exact, name)
    if x.dtype == torch.bool or torch.iinfo(x.dtype).max <= exact or x.is_meta:
        return
    # As int64, since torch has no minimum of some integer types.
    largest = max(abs(int(bound)) for bound in torch.aminmax(x.long())) if x.numel() else 0
    if largest > exact:
        raise ValueError(
            f"{name}: found the whole number {largest}, expected at most {exact}, from where on {dtype} rounds; "
            "programs in float64, model.double(), take larger ones"
        )


def _check_floats(x: Tensor, dtype: torch.dtype, exact: int, name: str) -> None:
    most = torch.finfo(dtype).max
    if torch.finfo(x.dtype).bits <= torch.finfo(dtype).bits or x.is_meta or not x.numel():
        return
    low, high = (bound.item() for bound in torch.aminmax(x))
    largest = low if -low > high else high
    if not math.isfinite(largest):  # as is checked elsewhere
        return
    if abs(largest) > most:
        raise ValueError(
            f"{name}: found the value {largest:g}, expected at most {most:g} in size, the largest that {dtype} holds; "
            "programs in float64, model.double(), take larger ones"
        )
    some = x.flatten()[:100]  # nearly always enough to see that they are not whole
    if x.dtype != torch.float64 or not exact < abs(largest) <= 2**53 or not (some == some.round()).all():
        return  # beyond 2^53 all numbers of float64 are whole, measurements too
    rounded = x.to(dtype).double()
    if bool((x == x.round()).all()) and bool((changed := rounded != x).any()):
        place = int(changed.flatten().byte().argmax())
        raise ValueError(
            f"{name}: found the whole number {x.flatten()[place].item():.0f} among whole numbers, which {dtype} rounds "
            f"to {rounded.flatten()[place].item():.0f}, expected numbers that it holds; programs in float64, "
            "model.double(), take larger ones, and measurements are best standardised"
        )


def kind_of(x: object) -> str:
    """Return the name of a value's type, for messages."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
