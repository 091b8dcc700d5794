"""A data loader: what a pass through it begins with, and whether it yields all data in their order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from pyro_vae.data.batch import Batch

__all__ = ["Begun", "first_of", "is_read_once", "own_generators", "warn_of_order"]

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Begun(NamedTuple):
    """A pass through a loader whose first batch was read, and the generators' states before and after."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    batches: Iterator[Any]
    x: Batch | None
    place: int  # of its first datum in the epoch


def own_generators(source: Any) -> dict[str, torch.Generator]:
    """Return the generators that a loader or its samplers have of their own, by names in order."""
    samplers: list[Any] = [source]
    if isinstance(source, DataLoader):
        samplers += [source.sampler, getattr(source.batch_sampler, "sampler", None)]
    found = [getattr(sampler, "generator", None) for sampler in samplers]
    own = dict.fromkeys(each for each in found if isinstance(each, torch.Generator))
    return {f"loader_{index}": each for index, each in enumerate(own)}


def is_read_once(data: Any) -> bool:
    """Return whether a stream gives the same iterator twice, so that it goes on where it was left; may draw."""
    return isinstance(data, IterableDataset) and iter(data) is iter(data)


def first_of(batches: Iterator[Any], name: str) -> list[Any]:
    """Return the first batch of a loader, in a list, which is empty if there is none.

    Raises
    ------
    TypeError
        If its items make no batch.
    """
    try:
        return list(islice(batches, 1))
    except TypeError as error:
        if not str(error).startswith("default_collate"):
            raise
        raise TypeError(
            f"{name}: found items that make no batch ({error}), expected tensors, arrays or numbers; "
            "pyro_vae.data.load reads a data set of pictures, and torchvision's ToTensor converts one"
        ) from error


def warn_of_order(loader: DataLoader[Any], name: str) -> None:
    """Warn if results with a row for each datum are not in the data set's order, or have no rows for some data.

    A sampler of one's own says what order it has, and is taken as it is.
    """
    batches: Any = loader.batch_sampler
    sampler = getattr(batches, "sampler", loader.sampler)
    found = []
    if isinstance(sampler, _RANDOM):
        found.append(f"draws its order at random ({type(sampler).__name__})")
    if num_dropped := _num_dropped(loader, batches, sampler):
        found.append(f"leaves out {num_dropped} data (drop_last=True)")
    if found:
        warnings.warn(
            f"{name}: found a DataLoader that {' and '.join(found)}, expected all data in their order: the result has "
            "a row for each datum as the loader yields it. DataLoader(dataset, batch_size), with neither shuffle nor "
            "drop_last, gives the rows of the data set",
            UserWarning,
            stacklevel=2,
        )


def _num_dropped(loader: DataLoader[Any], batches: Any, sampler: Any) -> int:
    size = getattr(batches, "batch_size", None)
    if not getattr(batches, "drop_last", False) or not isinstance(size, int) or size < 1:
        return 0
    try:
        number = len(loader.dataset if isinstance(loader.dataset, IterableDataset) else sampler)  # type: ignore[arg-type]
        return number % size if number >= size else 0  # without any batch, it is refused elsewhere
    except TypeError:  # of unknown length
        return 0
