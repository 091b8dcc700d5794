r"""Labels as integers, and the names of their classes.

.. math:: y_n \in \{0, \dots, C - 1\}, \qquad \text{name}_0 < \text{name}_1 < \dots < \text{name}_{C-1}

Whole numbers are labels as they are. Names are sorted and counted from 0, so that the same names give the same integers
in whatever order the data come. Fractions are names too, and are sorted as numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array

__all__ = ["coded"]


def coded(labels: Any, num_data: int) -> tuple[Tensor, tuple[str, ...] | None]:
    """Return labels ``(N,)`` as integers and, where they are names, the names of the classes.

    Raises
    ------
    TypeError
        For anything but a tensor or an array of integers or names.
    ValueError
        If there are not as many labels as data, or one is missing or no integer.

    Examples
    --------
    >>> coded(np.array(["dog", "cat", "dog"]), 3)
    (tensor([1, 0, 1]), ('cat', 'dog'))
    >>> coded(np.array([10.5, 2.0, 10.5], dtype=object), 3)
    (tensor([1, 0, 1]), ('2.0', '10.5'))
    """
    names = None
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "OSU" and labels.shape == (num_data,):
        missing = [value is None or value != value for value in labels.tolist()]  # NaN differs from itself
        if any(missing):
            raise ValueError(
                f"labels: found {sum(missing)} missing of {num_data}, the first at index {missing.index(True)}, "
                "expected one a datum; as integers, -1 stands for no label"
            )
        if not all(isinstance(value, (int, float, np.number, np.bool_)) for value in labels.tolist()):
            found, labels = np.unique(labels.astype(str), return_inverse=True)
            names = tuple(found.tolist())
        elif np.array_equal(numbers := labels.astype(np.float64), np.round(numbers)):
            labels = labels.astype(np.int64)
        else:
            found, labels = np.unique(numbers, return_inverse=True)
            names = tuple(map(str, found.tolist()))
    labels = check_array(labels, "labels").cpu()
    if labels.shape != (num_data,) or not torch.equal(labels, labels.long()):  # tables have labels as 0., 1., ...
        raise ValueError(
            f"labels: found shape {tuple(labels.shape)} and dtype {labels.dtype}, expected {num_data} integers"
        )
    return labels.long(), names
