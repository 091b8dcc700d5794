"""What a pass through a data loader begins with: its generators, and its first batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pyro_vae.data.batch import Batch

__all__ = ["Begun", "first_of", "is_read_once", "own_generators"]


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
