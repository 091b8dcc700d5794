"""Join the process group that a launcher such as ``torchrun`` describes, and leave it when the process ends."""

from __future__ import annotations

import atexit
import importlib
import os
from typing import Any

import torch
from torch import distributed

__all__ = ["is_launched", "join", "number_in"]

_group: Any = distributed  # of which not all has types
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


def is_launched() -> bool:
    """Return whether a launcher started this process and others; raise ``ValueError`` for a size that is no number.

    >>> is_launched()
    False
    """
    return _has_variables() and number_in("WORLD_SIZE") > 1


def number_in(name: str, default: int = 0) -> int:
    """Return the number in a variable that a launcher sets, or a default where it is not set.

    Raises
    ------
    ValueError
        For anything else than a number, with the name of the variable.
    """
    found = os.environ.get(name, str(default))
    if not (found.isascii() and found.strip().isdigit()):
        raise ValueError(f"{name}: found {found!r} in the environment, expected a number, as torchrun sets it")
    return int(found)


def _has_variables() -> bool:
    return all(name in os.environ for name in _VARIABLES)


def join() -> None:
    """Join the group that the launcher's variables describe, until the process ends.

    A launcher that starts all ranks again may keep its table of their addresses, in which those that died still stand.
    So each start has names of its own there.
    """
    for name in ("RANK", "MASTER_PORT"):
        number_in(name)
    _prepare()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(number_in("LOCAL_RANK") % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(iter(_group.rendezvous("env://")))
    own = _group.PrefixStore(f"pyro_vae/start {number_in('TORCHELASTIC_RESTART_COUNT')}", store)
    _group.init_process_group(backend, store=own, rank=rank, world_size=size)
    atexit.register(_leave)


def _leave() -> None:
    if _group.is_initialized():
        _group.destroy_process_group()


def _prepare() -> None:
    """Import, before there is a group, a module of PyTorch whose functions keep the group that they find.

    PyTorch imports it in the midst of a training. The group would outlive ``destroy_process_group``, and its threads,
    which go on as Python ends, abort the process.
    """
    importlib.import_module("torch.distributed.nn")


if _group.is_available() and _has_variables():  # the group may be made by a script's own call
    _prepare()
