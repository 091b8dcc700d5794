"""One of Pyro's programs at toy size, with its data, and the change that may make it acceptable.

A change is what a user would have to do where the package refuses a program as it stands. It has a name, which the
table prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import nn
from torch.utils.data import DataLoader

__all__ = ["Call", "Change", "Program", "one_loader", "started"]


@dataclass(frozen=True)
class Call:
    """The arguments of one call of the programs, as the example hands them to ``svi.step``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, function: Callable[..., Any]) -> Any:
        return function(*self.args, **self.kwargs)


class Change(NamedTuple):
    """A changed pair, its batches and its data, by the name of the change."""

    name: str
    model: Callable[..., Any]
    guide: Callable[..., Any]
    calls: list[Call]
    data: Any


@dataclass(frozen=True)
class Program:
    """A pair of programs.

    Attributes
    ----------
    model, guide
        The programs, as the example gives them to ``SVI``.
    module
        The networks of both, ``None`` if there are none.
    calls
        The batches of the data, as the example gives them to ``svi.step``.
    data
        All of the data, as ``fit`` and ``log_likelihood`` should take them.
    batch_size
        The batch size for ``data``, as the example's.
    plate
        The name of the plate of the data; sites outside it are global.
    change
        What may help where the programs are refused.
    rate
        The learning rate.
    pyros
        Pyro's ELBO that the example uses, or one with the same loss.
    has_globals
        Whether latents lie outside the data's plate.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    module: nn.Module | None
    calls: list[Call]
    data: Any
    batch_size: int
    plate: str = "data"
    change: Change | None = None
    rate: float = 3e-3
    pyros: Callable[[], pyro.infer.ELBO] = pyro.infer.Trace_ELBO
    has_globals: bool = False


def one_loader(calls: list[Call]) -> DataLoader[Any]:
    """Return a loader that yields the calls' arguments as they are, as tuples or by name."""
    return DataLoader([call.kwargs if call.kwargs else call.args for call in calls], batch_size=None)  # type: ignore


def started(make: Callable[[int], Program], seed: int, is_changed: bool = False) -> Program:
    """Build a program from a seed, changed or not, and run it once: parameters without a module begin to be then."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    program = make(seed)
    if is_changed:
        assert program.change is not None
        _, model, guide, calls, data = program.change
        program = replace(program, model=model, guide=guide, calls=calls, data=data)
    with torch.no_grad():
        trace = program.calls[0](poutine.trace(program.guide).get_trace)
        program.calls[0](poutine.replay(program.model, trace=trace))
    return program
