"""Join the process group that a launcher such as ``torchrun`` describes, and leave it when the process ends."""

from __future__ import annotations

import atexit
import importlib
import os
from typing import Any

import torch
from torch import distributed

__all__ = ["is_launched", "join"]

_group: Any = distributed  # of which not all has types
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


def is_launched() -> bool:
    """Return whether a launcher started this process and others.

    >>> is_launched()
    False
    """
    return all(name in os.environ for name in _VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def join() -> None:
    """Join the group that the launcher's variables describe, until the process ends.

    A launcher that starts all ranks again may keep its table of their addresses, in which those that died still stand.
    So each start has names of its own there.
    """
    _prepare()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(iter(_group.rendezvous("env://")))
    own = _group.PrefixStore(f"pyro_vae/start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
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


if _group.is_available() and is_launched():  # the group may be made by a script's own call
    _prepare()
