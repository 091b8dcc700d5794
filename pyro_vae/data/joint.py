"""Several arrays of the same data on one device, cut into batches by the same rows.

They are what is given in a tuple or a dictionary, ``fit(model, guide, (x, y))``: data and labels, or sequences and
their lengths. The order is drawn as that of a single array, so either way of giving the same data trains the same
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array, check_exact
from pyro_vae.data.batch import Arguments
from pyro_vae.data.split import Split, cut_rows

__all__ = ["Joint"]


class Joint:
    """N data, each of several entries, on one device.

    Parameters
    ----------
    entries
        The entries of all data, by position and by name. Arrays and tensors ``(N, ...)`` are checked and moved, and
        floating point ones get the type ``dtype``; a :class:`Split` is read as ever; all else is an option.
    name
        What messages call the data.

    Raises
    ------
    ValueError
        If an array is empty, not finite or beyond what ``dtype`` holds, or the numbers of data differ.

    Examples
    --------
    >>> joint = Joint(Arguments(torch.zeros(5, 2), y=torch.arange(5)), torch.device("cpu"), torch.float32)
    >>> joint.read(slice(0, 3), torch.float32).kwargs
    {'y': tensor([0, 1, 2])}
    """

    def __init__(self, entries: Arguments, device: torch.device, dtype: torch.dtype, name: str = "data") -> None:
        names = [f"{name}[{each!r}]" for each in (*range(len(entries.args)), *entries.kwargs)]
        values = [_resident(value, device, each) for each, value in zip(names, entries.values, strict=True)]
        for each, value in zip(names, values, strict=True):
            if isinstance(value, Split):
                check_exact(value.values, torch.promote_types(dtype, torch.float32), each)
            elif isinstance(value, Tensor) and value.is_floating_point():  # integers keep their type
                check_exact(value, dtype, each)
        self.entries, self.device = entries.replaced(values).to(device, dtype), device
        sizes = [len(value) for value in values if _is_data(value)]
        if len(set(sizes)) != 1:
            raise ValueError(f"{name}: found entries of {' and '.join(map(str, sizes))} data, expected equally many")
        self.num_data = sizes[0]

    def __len__(self) -> int:
        return self.num_data

    def rows(self, batch_size: int, shuffle: bool) -> Iterator[Tensor | slice]:
        """Yield the rows of each batch: ``(batch_size,)`` if they are shuffled, else a slice."""
        return cut_rows(self.num_data, self.device, batch_size, shuffle)

    def read(self, rows: Tensor | slice, dtype: torch.dtype) -> Arguments:
        """Return the batch of some rows, and draw the noise of splits."""

        def picked(value: Any) -> Any:
            if isinstance(value, Split):
                return value.read(rows, dtype)
            if not _is_data(value):
                return value
            return value[rows].clone() if isinstance(rows, slice) else value.index_select(0, rows)

        return self.entries.replaced(map(picked, self.entries.values))


def _is_data(value: Any) -> bool:
    return isinstance(value, Split) or (isinstance(value, Tensor) and value.dim() > 0)


def _resident(value: Any, device: torch.device, name: str) -> Any:
    if isinstance(value, Split):
        return value if value.device == device else value.to(device)
    return check_array(value, name) if isinstance(value, (Tensor, np.ndarray)) and value.ndim else value
