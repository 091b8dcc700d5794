"""Whether all ranks make the same call, on the same data, with the same weights.

Each rank takes its share of every batch. Where ranks read other data, such as parts that a script made for each of
them, a share of each part would never be used, and nothing would show it.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data.batch import tensors_in
from pyro_vae.data.batches import Batches
from pyro_vae.data.shares import yields_unasked
from pyro_vae.runtime.modules import owners
from pyro_vae.runtime.ranks import Ranks

__all__ = ["refuse_other_calls"]


def refuse_other_calls(
    ranks: Ranks, call: Mapping[str, Any], batches: Sequence[Batches | None], programs: Sequence[Any] = (), **more: Any
) -> None:  # fmt: skip
    """Raise ``ValueError`` on all ranks unless they make the same call, on the same data, with the same weights.

    Of the data and the weights some rows are compared. Streams that begin otherwise are warned of, as they may draw
    their data.
    """
    if ranks.size == 1:
        return
    own = {**call, **more}
    for name, each in zip(("data", "valid"), batches, strict=False):
        own[name] = None if each is None else (each.num_data, each.batch_size, _num(each), _digest(each.stored()))
    modules = [module for program in programs for module in owners(program)]
    own["weights"] = _digest([tensor for module in modules for tensor in module.state_dict().values()])
    texts = ranks.gather({name: re.sub(" at 0x[0-9a-f]+", "", repr(value)) for name, value in own.items()})
    for name in own:
        found = [text.get(name) for text in texts]
        if len(set(found)) > 1:
            raise ValueError(
                f"{name}: found {', '.join(map(str, found))} on {ranks.size} ranks, expected the same on all of them; "
                "they share one call"
            )
    for each in batches:
        if each is not None and not each.resident:
            _refuse_other_data(ranks, each)


def _refuse_other_data(ranks: Ranks, batches: Batches) -> None:
    """Compare what a loader reads on each rank, as far as that is the same each time."""
    loader: Any = batches._source
    name, is_stream = batches._entries.name, yields_unasked(loader)
    found = ranks.gather(_first_of_stream(batches) if is_stream else _some_items(batches))
    if None in found or len(set(found)) == 1:
        return
    if not is_stream:
        raise ValueError(
            f"{name}: found a loader that reads other data on each rank, expected the same on all; each batch is "
            "shared among the ranks"
        )
    if ranks.is_first:
        warnings.warn(
            f"{name}: found another first batch on each rank, expected the same unless a stream draws its data; each "
            "rank takes its share of every batch, so a part of a stream that is split among ranks is never used",
            UserWarning,
            stacklevel=4,
        )


def _first_of_stream(batches: Batches) -> str | None:
    batches.first()
    begun = batches._begun
    assert begun is not None
    return _digest([tensor for batch in begun.read for tensor in tensors_in(batches._entries.batch_of(batch))])


def _some_items(batches: Batches) -> str | None:
    """Return a digest of the first item of a loader's data set, one in the middle and the last.

    It is ``None`` where they cannot be read by their numbers, or are not the same when they are read again.
    """
    loader: Any = batches._source
    before = batches.generators()
    options = {name: getattr(loader, name) for name in ("collate_fn", "worker_init_fn", "multiprocessing_context")}
    options |= {"num_workers": min(loader.num_workers, 1), "generator": torch.Generator()}
    try:
        number = len(loader.dataset)
        if loader.batch_sampler is None:
            twice = DataLoader(loader.dataset, batch_size=None, sampler=[0, 0], **options)
        else:
            rows = sorted({0, number // 2, number - 1})
            twice = DataLoader(loader.dataset, batch_sampler=[rows, rows], **options)
        first, again = (_digest(tensors_in(batches._entries.batch_of(found))) for found in twice)
    except Exception:  # what is wrong with them is said where they are read in order
        return None
    finally:
        batches.set_generators(before)
    return first if first == again else None


def _num(batches: Batches) -> int | None:
    try:
        return len(batches)
    except TypeError:  # of unknown length
        return None


def _digest(tensors: Sequence[Any], num_rows: int = 64) -> str:
    """Return a digest of some rows of tensors."""
    digest = hashlib.sha256()
    for each in tensors:
        if isinstance(each, Tensor) and each.numel():
            flat = each.detach().reshape(len(each), -1) if each.dim() else each.detach().reshape(1, 1)
            rows = flat[
                torch.linspace(
                    0, len(flat) - 1, min(len(flat), num_rows), dtype=torch.float64, device=flat.device
                ).long()
            ]
            digest.update(repr((each.shape, each.dtype)).encode())
            digest.update(rows.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
