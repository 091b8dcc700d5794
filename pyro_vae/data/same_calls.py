"""Whether all ranks make the same call, on the same data, with the same weights.

Each rank takes its share of every batch. Where ranks read other data, such as parts that a script made for each of
them, a share of each part would never be used, and nothing would show it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Subset, TensorDataset

from pyro_vae.data.batches import Batches
from pyro_vae.data.reading import some_rows
from pyro_vae.runtime.digests import digest_of_rows
from pyro_vae.runtime.modules import owners
from pyro_vae.runtime.ranks import Ranks

__all__ = ["digest_of_data_in", "refuse_other_calls"]


def refuse_other_calls(
    ranks: Ranks, call: Mapping[str, Any], batches: Sequence[Batches | None], programs: Sequence[Any] = (), **more: Any
) -> None:  # fmt: skip
    """Raise ``ValueError`` on all ranks unless they make the same call, on the same data, with the same weights.

    Of the data and the weights some rows are compared: of arrays, of data on disk, and of what a loader reads from
    them. Data sets that others have written may draw what they yield; of these the number of data is compared.
    """
    if ranks.size == 1:
        return
    own = {**call, **more}
    for name, each in zip(("data", "valid"), batches, strict=False):
        own[name] = None
        if each is not None:
            own[name] = (each.num_data, each.batch_size, _num(each), digest_of_data_in(each))
    modules = [module for program in programs for module in owners(program)]
    own["weights"] = digest_of_rows([tensor for module in modules for tensor in module.state_dict().values()])
    texts = ranks.gather({name: re.sub(" at 0x[0-9a-f]+", "", repr(value)) for name, value in own.items()})
    for name in own:
        found = [text.get(name) for text in texts]
        if len(set(found)) > 1:
            raise ValueError(
                f"{name}: found {', '.join(map(str, found))} on {ranks.size} ranks, expected the same on all of them; "
                "they share one call"
            )


def digest_of_data_in(batches: Batches) -> str:
    """Return a digest of some rows of arrays, of data on disk, and of what a loader reads from them."""
    source: Any = batches._source
    return digest_of_rows([*batches.stored(), *some_rows(source), *_held(getattr(source, "dataset", None))])


def _held(dataset: Any) -> list[Any]:
    """Return the tensors that a data set of torch's reads from, none of another one."""
    if isinstance(dataset, Subset):
        return [torch.tensor(list(dataset.indices)), *_held(dataset.dataset)]
    return list(dataset.tensors) if isinstance(dataset, TensorDataset) else []


def _num(batches: Batches) -> int | None:
    try:
        return len(batches)
    except TypeError:  # of unknown length
        return None
