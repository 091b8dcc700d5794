"""A data set that yields pictures, or pairs of a picture and a label, as an array and labels.

Such are torchvision's ``ImageFolder`` and ``MNIST``, or a ``TensorDataset`` of two tensors. Every item is read once, so
a transform that draws at random is drawn once.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from pyro_vae.data.arrays import kind_of
from pyro_vae.data.images import levels_of
from pyro_vae.runtime.foreign import advice, comes_from

__all__ = ["read_pairs"]


def read_pairs(dataset: Dataset[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, tuple[str, ...] | None]:
    """Return the data of a data set, their labels and the names of the classes, ``None`` where there are none.

    Labels are the second of two entries, where they are integers. Other entries are left out, and a warning says so.

    Raises
    ------
    TypeError
        If the data set can only be iterated, or an item is neither an array nor a picture, alone or in a tuple.
    ValueError
        If it is empty, or two items have different shapes.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"data: found {kind_of(dataset)}, which has no length, expected one that can be split; pyro_vae.fit takes "
            "a DataLoader of it"
        )
    num_data = len(dataset)
    if num_data == 0:
        raise ValueError(f"data: found an empty {kind_of(dataset)}, expected one datum or more")
    first: npt.NDArray[Any] | None = None
    labels: list[Any] = []
    for index in range(num_data):
        item = _entries(dataset[index], index)
        found = _array(item[0], index)
        if first is None:
            first, number = found, len(item)
            values = np.empty((num_data, *first.shape), first.dtype)
        if found.shape != first.shape or found.dtype != first.dtype:
            raise ValueError(
                f"data[{index}]: found shape {found.shape} and {found.dtype}, expected {first.shape} and {first.dtype} "
                "as data[0] has; torchvision's Resize and Grayscale make pictures alike"
            )
        values[index] = found
        labels.append(_label(item))
    if None not in labels:
        names = getattr(dataset, "classes", None)
        return values, np.array(labels), None if names is None else tuple(map(str, names))
    if number > 1:
        warnings.warn(
            f"data: found items of {number} entries, expected one, or two with an integer label. The first entry is "
            "used and the rest is left out",
            UserWarning,
            stacklevel=2,
        )
    return values, None, None


def _entries(item: Any, index: int) -> tuple[Any, ...]:
    if isinstance(item, (tuple, list)) and len(item):
        return tuple(item)
    if isinstance(item, dict):
        raise TypeError(
            f"data[{index}]: found a dictionary, expected a datum, or a datum and its label; give the arrays "
            "themselves, as pyro_vae.data.load(x, labels=y)"
        )
    return (item,)


def _array(datum: Any, index: int) -> npt.NDArray[Any]:
    """Return a datum as an array of its own."""
    if comes_from(datum, "PIL"):
        return levels_of(datum, f"data[{index}]", datum.mode in ("1", "L", "LA"))
    if isinstance(datum, Tensor):
        return datum.detach().cpu().numpy()
    if not isinstance(datum, (np.ndarray, np.number)):
        raise TypeError(f"data[{index}]: found {kind_of(datum)}, expected a picture, tensor or array{advice(datum)}")
    return np.asarray(datum)


def _label(item: tuple[Any, ...]) -> int | None:
    """Return the label of an item, ``None`` where there is no integer."""
    if len(item) != 2:
        return None
    label = item[1]
    if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.ndim == 0:
        label = label.item()
    return label if isinstance(label, int) else None
