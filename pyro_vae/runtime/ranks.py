"""The ranks of a process group, which share the work of a call.

PyTorch starts and connects the processes, by ``torchrun`` or ``torch.distributed.init_process_group``. Each of them is
a *rank*, from 0 on, and runs the same script. A function that shares its work asks :func:`ranks` who they are. In a
process without a group that is one rank, number 0, and nothing is sent.

A rank that fails alone would leave the others waiting. So :func:`together` stands around a call of all ranks: it checks
that all make the same call, and tells the others of an error.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from pyro_vae.errors import RankError
from pyro_vae.runtime.launched import is_launched, join

__all__ = ["Ranks", "alone", "is_connected", "ranks", "together"]

group: Any = distributed  # of which not all has types
_T = TypeVar("_T")
_PATIENCE = 60.0  # seconds until a rank says that it waits for others
_GRACE = 5.0  # seconds in which ranks that fail alike do so

_is_alone = False
_has_ended = False  # the group, as a rank failed alone
_num_calls = 0  # of together: the same on all ranks
_call = 0  # the number of the one under way
_name = ""  # of the call under way
_LOST = "lost another rank"


class Ranks:
    """The ranks that share a call: their number, this one's, and what they can do together.

    Every method has to be called by all ranks. A single rank sends nothing.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """True for the rank that writes files and shows progress."""
        return self.rank == 0

    def share(self, num: int) -> slice:
        """Return which of so many things are this rank's; the shares differ by at most one.

        >>> [Ranks(rank, 3).share(4) for rank in range(3)]
        [slice(0, 1, None), slice(1, 2, None), slice(2, 4, None)]
        """
        return slice(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks, and return it."""
        if self.size > 1:
            with _naming_lost_ranks(self):
                group.all_reduce(tensor)
        return tensor

    def table(self, row: Sequence[float]) -> Tensor:
        """Return the numbers of all ranks, ``(size, len(row))`` in float64 on the CPU."""
        own = torch.tensor([list(row)], dtype=torch.float64)
        if self.size == 1:
            return own
        own = own.cuda() if group.get_backend() == "nccl" else own
        rows = [torch.empty_like(own) for _ in range(self.size)]
        with _naming_lost_ranks(self):
            group.all_gather(rows, own)
        return torch.cat(rows).cpu()

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all ranks."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            with _naming_lost_ranks(self):
                group.all_gather_object(found, value)
        return found

    def first(self, function: Callable[[], _T]) -> _T:
        """Call a function on rank 0 alone, and return what it returns on all ranks, or raise what it raises."""
        if self.size == 1:
            return function()
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = function()
            except Exception as error:
                found[1] = error
        with _naming_lost_ranks(self):
            group.broadcast_object_list(found)
        if found[1] is not None:
            raise found[1]
        value: _T = found[0]
        return value


def ranks() -> Ranks:
    """Return the ranks of the process group, which is joined first if a launcher has set its variables."""
    if _is_alone or not group.is_available():
        return Ranks()
    if _has_ended:
        raise RankError("found a process group that ended when a rank failed, expected a new start of all ranks")
    if not group.is_initialized():
        if not is_launched():
            return Ranks()
        join()
    return Ranks(group.get_rank(), group.get_world_size())


def is_connected() -> bool:
    """Return whether this process speaks to others, by threads that a fork may catch with a lock."""
    return bool(group.is_available() and group.is_initialized() and group.get_world_size() > 1)


@contextmanager
def alone() -> Iterator[None]:
    """Let this rank work by itself for a block, as a process without a group does."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


@contextmanager
def together(name: str) -> Iterator[None]:
    """Stand around a call that all ranks make; raise ``RankError`` if another one makes another call, or fails."""
    own = ranks()
    if own.size == 1:
        yield
        return
    global _num_calls, _name, _call
    before = _name, _call
    _num_calls += 1
    _name, _call = name, (call := _num_calls)
    try:
        with _saying_that_it_waits(name, own):
            names = own.gather(name)
        if len(set(names)) > 1:
            raise RankError(f"{name}: found ranks in different calls, {names}, expected all of them in the same one")
        yield
    except BaseException as error:
        _end_together(own, call, error)
        raise
    finally:
        _name, _call = before


@contextmanager
def _saying_that_it_waits(name: str, own: Ranks) -> Iterator[None]:
    message = (
        f"{name}: rank {own.rank} of {own.size} has waited {_PATIENCE:g} s for the others; every rank has to call it, "
        "or none under torch.distributed"
    )
    timer = threading.Timer(_PATIENCE, lambda: print(message, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _key(call: int, rank: int) -> str:
    return f"pyro_vae/failed/{call}/{rank}"


def _end_together(own: Ranks, call: int, error: BaseException) -> None:
    """Tell the others of an error, and close the connections unless they fail as well."""
    global _has_ended
    with suppress(Exception):
        store = _store()
        said = _LOST if isinstance(error, RankError) else f"{type(error).__name__}: {error}"[:1000]
        store.set(_key(call, own.rank), said)
        if _wait_for_others(store, own, call):
            _has_ended = True
            group.destroy_process_group()  # those who wait for this rank are woken


def _wait_for_others(store: Any, own: Ranks, call: int) -> list[int]:
    """Return the ranks that have not failed in some seconds."""
    until = time.monotonic() + _GRACE
    while True:
        running = [rank for rank in range(own.size) if rank != own.rank and not store.check([_key(call, rank)])]
        if not running or time.monotonic() > until:
            return running
        time.sleep(0.05)


@contextmanager
def _naming_lost_ranks(own: Ranks) -> Iterator[None]:
    """Raise ``RankError``, which names the ranks that are gone, where a message to or from one fails."""
    global _has_ended
    try:
        yield
    except RuntimeError as error:
        _has_ended = True  # a next call would wait for those that are gone
        raise RankError(f"{_name}: rank {own.rank} of {own.size} stopped: {_lost(own)}") from error


def _lost(own: Ranks) -> str:
    """Return a phrase on the ranks that were lost: what they failed with, or that they died."""
    try:
        store, call = _store(), _call
        store.set(_key(call, own.rank), _LOST)
        gone = _wait_for_others(store, own, call)
        said = {rank: store.get(_key(call, rank)).decode() for rank in range(own.size) if rank not in gone}
    except Exception:  # the store was that of a process that died
        return "rank 0, which keeps the list of ranks, has died"
    failed = [f"rank {rank} failed with {text}" for rank, text in said.items() if text != _LOST]
    failed += [f"rank {rank} has died" for rank in gone]
    return "; ".join(failed) or "the connection between the ranks was lost"


def _store() -> Any:
    """Return the group's table of keys and values."""
    return group.distributed_c10d._get_default_store()
