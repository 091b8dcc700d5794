r"""How many particles of how many data are drawn at once, where nobody says it.

Each datum needs K draws. They come in chunks of c particles of batches of b data, so c b draws are made at once. Many
draws make fast matrix products, until they no longer fit into a cache or a memory. With at most L draws at once,

.. math:: b = 50 \text{ on a CPU}, \quad b \approx L / K \text{ on a GPU}, \qquad c \approx \min(K, L / b).

On a CPU, L is so large that what the model says of one chunk still fits into a cache: a datum of d bytes has d bytes
a draw. On a GPU, L is where products stop becoming faster. If a draw allocates m bytes in all, what L draws allocate
also has to fit into M bytes,

.. math:: L_\text{CPU} = \frac{6 \text{ MiB}}{d}, \qquad L_\text{GPU} = \min\Bigl(2^{19}, \frac{M}{m}\Bigr), \qquad
          M = \min\bigl(\tfrac12 \text{ of the GPU's memory, free memory}\bigr).

That is safe, since m counts all tensors as if none were freed. The draws depend on the sizes, and so does the estimate
that a seed gives. Hence sizes follow from nothing that changes from day to day, but for one case: a GPU half of which
is in use.

The last batch and the last chunk may be smaller, and then they are not compiled. So of the sizes from half the largest
on, the one is taken that leaves the fewest over.

Chunks are not recorded as CUDA graphs: of 250,000 draws and more, that gains 3 to 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.data import DataLoader

from pyro_vae.compilation.compiled import Compile
from pyro_vae.data.batch import Batch, tensors_in
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.arguments import AnyData, PositiveInteger
from pyro_vae.runtime.state import seeded

__all__ = [
    "Size",
    "batch_size_for",
    "chunk_size_for",
    "even",
    "is_worth_compiling",
    "memory_of",
    "most_draws",
    "most_in_memory",
    "num_bytes_of_draw",
    "num_data_in",
]

Size = Annotated[PositiveInteger | Literal["auto"], "a positive integer or 'auto'"]

_CPU_BYTES, _CPU_DRAWS = 6 * 2**20, (1000, 10_000)  # outside of these, the encoder or Python would count
_GPU_DRAWS = 2**19
_CPU_BATCH, _GPU_BATCH = 50, (64, 512)
_CPU_WORTH_COMPILING, _GPU_WORTH_COMPILING = 2 * 10**6, 2 * 10**8  # draws: data x particles


def batch_size_for(x: AnyData, num_particles: int, device: torch.device) -> int:
    """Return b for data of any kind; a loader keeps its own."""
    most = _CPU_BATCH
    if device.type == "cuda":
        least, largest = _GPU_BATCH
        most = min(max(_GPU_DRAWS // num_particles, least), largest)
    return even(num_data_in(x) or most, most)


def chunk_size_for(num_particles: int, batch_size: int, most: int) -> int:
    """Return c where ``most`` draws are made at once.

    >>> chunk_size_for(5000, 50, most=2006), chunk_size_for(5000, 500, most=2**19), chunk_size_for(5000, 100, most=10)
    (40, 1000, 1)
    """
    return even(num_particles, max(most // batch_size, 1))


def even(total: int, most: int) -> int:
    """Return the size, at most ``most``, in which a total is cut.

    >>> even(40, 100), even(1000, 300), even(101, 100)  # 1, 4 and 2 parts
    (40, 250, 100)
    """
    if total <= most:
        return total
    return min(range(most, (most - 1) // 2, -1), key=lambda size: total % size)


def most_draws(programs: ProgramPair, x: Batch) -> int:
    """Return L for these programs and a batch of their data."""
    if x.device.type != "cuda":
        num_bytes = sum(tensor.nbytes for tensor in tensors_in(x)) // len(x)
        least, most = _CPU_DRAWS
        return min(max(_CPU_BYTES // max(num_bytes, 1), least), most)
    return most_in_memory(num_bytes_of_draw(programs, x), memory_of(x.device))


def most_in_memory(num_bytes: int, memory: int) -> int:
    """Return how many draws of so many bytes are made at once on a GPU with so much memory.

    It is a power of two, so that a few bytes more or less make no difference.

    >>> most_in_memory(35_000, 80 * 2**30), most_in_memory(35_000, 8 * 2**30), most_in_memory(10**9, 2**20)
    (524288, 131072, 1)
    """
    fitting = max(memory // max(num_bytes, 1), 1)
    return min(_GPU_DRAWS, 1 << (fitting.bit_length() - 1))


def memory_of(device: torch.device) -> int:
    """Return M for a GPU, in bytes; what torch holds and does not use is free."""
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(total // 2, free + unused)


@torch.no_grad()
def num_bytes_of_draw(programs: ProgramPair, x: Batch) -> int:
    """Return m, from a run with two particles of each datum; no generator is moved."""
    with seeded(0, x.device), _Allocated() as allocated:
        weights_of(programs, x, 2)
    return allocated.num_bytes // (2 * len(x))


class _Allocated(TorchDispatchMode):
    """Count the bytes of all tensors that are made."""

    num_bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch would take a second to load its compiler and find that out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if all(each.alias_info is None for each in func._schema.returns):  # no view, and not in place
            self.num_bytes += sum(each.nbytes for each in tree_iter(result) if isinstance(each, Tensor))
        return result


def is_worth_compiling(compile: Compile, num_draws: int, device: torch.device) -> bool:
    """Return true if it was asked for, or if so many draws take longer than compiling."""
    least = _GPU_WORTH_COMPILING if device.type == "cuda" else _CPU_WORTH_COMPILING
    return compile is True or (compile == "auto" and num_draws >= least)


def num_data_in(x: AnyData) -> int | None:
    """Return the number of data, ``None`` where only reading them would tell."""
    if isinstance(x, DataLoader):
        return None  # its length counts batches
    entries = list(x.values()) if isinstance(x, Mapping) else x if isinstance(x, tuple) else [x]
    try:
        return len(entries[0])
    except (TypeError, IndexError):
        return None
