"""Data of any kind as one batch, so that several passes see the same values in the same order."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.batches import Batches
from pyro_vae.data.reading import stored_in

__all__ = ["first_data", "joined", "spaced_data"]


def first_data(batches: Batches, num_data: int | None, name: str) -> Batch:
    """Return the first ``num_data`` data, or all, as one batch; bits that are drawn at each use are drawn once.

    Raises
    ------
    ValueError
        If there are none, or batches of several shapes cannot be put together.
    """
    parts: list[Batch] = []
    count = 0
    for batch in batches:
        left = len(batch) if num_data is None else num_data - count
        parts.append(batch[:left])
        count += len(parts[-1])
        if count == num_data:
            break
    if not count:
        raise ValueError(f"{name}: found no data, expected one datum or more")
    return _together(parts, name)


def spaced_data(batches: Batches, num_data: int, name: str) -> Batch:
    r"""Return data :math:`\lfloor n N / \text{num_data} \rfloor` of N, or all, as one batch; of a loader the first."""
    total, stored = batches.num_data, stored_in(batches._source)
    if stored is not None and total is not None and total > num_data:
        found = stored[torch.arange(num_data) * total // num_data]
        return batches._on_device(batches._entries.batch_of(found))
    if not batches.resident or total is None or total <= num_data:
        return first_data(batches, num_data, name)
    wanted = torch.arange(num_data) * total // num_data
    parts: list[Batch] = []
    start = 0
    for batch in batches:
        rows = wanted[(start <= wanted) & (wanted < start + len(batch))] - start
        parts.append(batch[rows.to(batch.device)])
        start += len(batch)
    return _together(parts, name)


def _together(parts: list[Batch], name: str) -> Batch:
    try:
        return joined(parts)
    except RuntimeError as error:
        shapes = ", ".join(sorted({str(tuple(part.shape[1:])) for part in parts}))
        raise ValueError(f"{name}: found batches of different shapes {shapes}, expected data of one shape") from error


def joined(parts: list[Batch]) -> Batch:
    """Return batches as one; options stay those of the first."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    columns = zip(*(part.values for part in parts if isinstance(part, Arguments)), strict=True)
    is_data = [isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(first) for value in first.values]
    return first.replaced(
        [torch.cat(column) if joins else column[0] for column, joins in zip(columns, is_data, strict=True)]
    )
