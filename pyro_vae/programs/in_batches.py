r"""A function of a batch, applied to data of any size and kind a batch at a time.

.. math:: f(x_1, \dots, x_N) = \bigl(f(x_{1:B}),\ f(x_{B+1:2B}),\ \dots\bigr)

That holds for every function that treats each datum by itself. Only one batch and the result are in memory beside the
data, and only one batch of an array is on the programs' device. The result is an array of NumPy if the data are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array, check_exact
from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.entries import Entries

__all__ = ["in_batches", "joined"]


def in_batches(
    function: Callable[[Batch], Tensor],
    x: Any,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    programs: Sequence[Callable[..., Any]],
) -> Any:
    """Return a function's values ``(N, ...)`` for data of any kind that :func:`~pyro_vae.data.as_batches` takes.

    Parameters
    ----------
    function
        Takes a batch of the data on the device, and returns a tensor with a row for each datum.
    x
        The data. Of an array of NumPy, or a tuple or dictionary that starts with one, the result is an array too.
    batch_size, device, dtype
        Those of the batches.
    programs
        The model and the guide, which decide by their arguments which entries of a tuple are used.

    Raises
    ------
    ValueError, TypeError
        As :func:`~pyro_vae.data.as_batches`.
    """
    arrays = _arrays(x, programs)
    if arrays is None:
        options: dict[str, Any] = {"name": "x", "programs": programs, "each_datum": True}
        batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, **options)
        return joined(map(function, batches), batches.num_data)
    num_data = len(arrays.values[0])
    starts = range(0, max(num_data, 1), batch_size)
    pieces = (_piece(arrays, slice(start, start + batch_size), dtype).to(device, dtype) for start in starts)
    returns_array = isinstance(arrays.values[0], np.ndarray)
    values = (function(_alone(piece, dtype)) for piece in pieces)
    found = joined((value.cpu() for value in values) if returns_array else values, num_data)
    return found.numpy() if returns_array else found


def joined(values: Iterable[Tensor], num_data: int | None) -> Tensor:
    """Return the values of all batches as one tensor, which is made once if the number of data is known.

    >>> joined(iter([torch.zeros(2, 3), torch.ones(1, 3)]), 3).shape
    torch.Size([3, 3])
    """
    if num_data is None:
        return torch.cat(list(values))
    whole, stop = None, 0
    for value in values:
        if whole is None:
            if len(value) == num_data:
                return value
            whole = value.new_empty((num_data, *value.shape[1:]))
        start, stop = stop, stop + len(value)
        whole[start:stop] = value
    if whole is None:
        raise ValueError("x: found no batch of data, expected one datum or more")
    return whole[:stop]  # a loader may drop the last batch


def _arrays(x: Any, programs: Sequence[Callable[..., Any]]) -> Arguments | None:
    """Return data that are arrays alone, by position and name, ``None`` for any other kind."""
    kinds = (Tensor, np.ndarray)
    if isinstance(x, kinds):
        return Arguments(x) if x.ndim else None
    entries = Arguments(*x) if isinstance(x, tuple) else Arguments(**x) if isinstance(x, Mapping) else Arguments()
    if not entries.values or not all(isinstance(value, kinds) and value.ndim for value in entries.values):
        return None
    entries = Entries(programs, "x").chosen(entries)
    sizes = [len(value) for value in entries.values]
    if len(set(sizes)) != 1:
        raise ValueError(f"x: found entries of {' and '.join(map(str, sizes))} data, expected equally many")
    return entries


def _piece(arrays: Arguments, rows: slice, dtype: torch.dtype) -> Arguments:
    several = len(arrays.values) > 1
    names = [f"x[{each!r}]" if several else "x" for each in (*range(len(arrays.args)), *arrays.kwargs)]
    values = zip(arrays.values, names, strict=True)
    found = [(check_array(value[rows], name, rows.start), name) for value, name in values]
    for value, name in found:
        if value.is_floating_point() or not several:  # the integers of several entries keep their type
            check_exact(value, dtype, name)
    return arrays.replaced(value for value, _ in found)


def _alone(piece: Arguments, dtype: torch.dtype) -> Batch:
    """Return an only entry as a tensor of a floating point type."""
    is_one = len(piece.values) == 1
    return piece.values[0].to(dtype) if is_one else piece
