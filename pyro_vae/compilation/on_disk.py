"""Remember what was compiled in this environment, next to what torch keeps on disk.

Torch keeps compiled kernels in a folder of its own, so that the next process compiles the same in a part of the time.
What is in that folder can be seen only by compiling. A file of a few bytes for each program that was compiled tells it
beforehand. A run that is compiled for it rounds otherwise than one that is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pyro_vae.runtime.digests import digest_of_data
from pyro_vae.runtime.files import write_text

__all__ = ["is_on_disk", "mark_for", "remember"]


def mark_for(module: nn.Module, facts: Sequence[object]) -> Path:
    """Return the file that tells of a module's compiled kernels.

    Parameters
    ----------
    module
        What the kernels run; its parts, shapes and types of numbers count, the numbers do not.
    facts
        What else decides which kernels they are, by its ``str``: objective, batch size, device.
    """
    from torch._inductor import codecache  # imports the compiler, which takes a second

    forms = [f"{name} {tuple(p.shape)} {p.dtype} {p.requires_grad}" for name, p in module.named_parameters()]
    device = next((str(p.device) for p in module.parameters()), "cpu")
    name = digest_of_data([torch.__version__, repr(module), device, *forms, *map(str, facts)])
    return Path(codecache.cache_dir()) / "pyro_vae" / name  # type: ignore[attr-defined]


def is_on_disk(mark: Path) -> bool:
    """Return whether kernels were compiled here before."""
    return mark.is_file()


def remember(mark: Path) -> None:
    """Note that kernels were compiled; a folder that cannot be written to is passed over."""
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_text(mark, "compiled\n")
