"""The modules that a program is made of, and the device of their parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["owners", "placement"]


def owners(program: Any) -> Iterator[nn.Module]:
    """Yield the modules that a callable is made of.

    These are the callable itself, the object of a method, the content of a handler or ``partial``, and the modules that
    a function uses from its closure or by a global name.

    >>> layer = nn.Linear(1, 1)
    >>> list(owners(functools.partial(layer.forward, torch.ones(1))))
    [Linear(in_features=1, out_features=1, bias=True)]
    """
    if (wrapped := getattr(program, "__wrapped__", None)) is not None:
        yield from owners(wrapped)
    elif isinstance(program, nn.Module):
        yield program
    elif isinstance(program, functools.partial):  # Pyro's handlers too
        for part in (program.func, *program.args, *program.keywords.values()):
            yield from owners(part)
    elif isinstance(owner := getattr(program, "__self__", None), nn.Module):
        yield owner
    elif inspect.isfunction(program):
        known = inspect.getclosurevars(program)
        yield from (value for value in {**known.globals, **known.nonlocals}.values() if isinstance(value, nn.Module))


def placement(*programs: Any) -> tuple[torch.device, torch.dtype]:
    """Return the device and floating dtype of the first parameter or buffer, else the CPU and the default dtype.

    >>> placement(nn.Linear(1, 1).double())
    (device(type='cpu'), torch.float64)
    """
    for owner in (owner for program in programs for owner in owners(program)):
        for tensor in (*owner.parameters(), *owner.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()
