"""The grey levels of a run: kept with its settings, so that new data are divided by what its data were divided by.

A file of bytes whose largest is 1 may be bits or nearly black pictures. Which of them, the data of the run tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.loading import Splits
from pyro_vae.data.sparse import SparseSplit
from pyro_vae.data.stored import Stored

__all__ = ["levels_like", "levels_of"]

_BYTES = 255


def levels_of(splits: Splits) -> int:
    """Return the stored value that stands for 1 in the training data: 255 for bytes, 1 for numbers as they are."""
    train = splits.train
    if isinstance(train, Stored):
        return train.levels[0]
    return 1 if isinstance(train, SparseSplit) else train.levels


def levels_like(config: dict[str, Any], path: str) -> Callable[[Tensor], int] | None:
    """Return the function that says what stands for 1 in new data; ``None`` for a run that did not keep its own.

    The function raises ``ValueError`` for data whose scale is not that of the run, and not clear by itself.
    """
    if "levels" not in config:
        return None
    levels, likelihood = config["levels"], config["likelihood"]
    if type(levels) is not int or levels < 1:
        raise ValueError(f"levels: found {levels!r} in the settings of the run, expected a positive integer")

    def like(values: Tensor) -> int:
        low, high = (float(bound) for bound in values.aminmax())
        is_bytes, are_bits = values.dtype == torch.uint8, likelihood == "bernoulli" and low >= 0 and high <= 1
        if values.dtype == torch.bool or are_bits:
            return 1
        if levels == 1:
            if not is_bytes or high <= 1 or likelihood == "counts":
                return 1
            if likelihood != "real":
                return _BYTES  # the run's numbers are in [0, 1]
            raise _error(path, values, low, high, "numbers as the run has them, which are no bytes")
        if is_bytes:
            return levels if high <= levels else _BYTES
        if values.is_floating_point() and low >= 0 and high <= 1:
            return 1
        raise _error(path, values, low, high, f"bytes, 0..{levels}, as the run has them, or fractions of 1")

    return like


def _error(path: str, values: Tensor, low: float, high: float, expected: str) -> ValueError:
    kind = str(values.dtype).removeprefix("torch.")
    return ValueError(f"--data: found numbers of type {kind} from {low:g} to {high:g} in {path}, expected {expected}")
