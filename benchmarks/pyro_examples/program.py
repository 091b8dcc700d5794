"""One of Pyro's programs at toy size, with its data, and the changes that may make it acceptable.

A change is what a user would have to do: wrap the program's methods into modules, pack several arguments into one
tensor, say how deep plates are nested, take particles one after the other. Each has a name that the table prints.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["CHANGES", "Call", "Program", "changes_of", "one_loader", "started"]


@dataclass(frozen=True)
class Call:
    """The arguments of one call of the programs, as the example hands them to ``svi.step``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, function: Callable[..., Any]) -> Any:
        return function(*self.args, **self.kwargs)


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
    options
        Arguments of objectives, ``log_likelihood`` and the like.
    whole
        The pair that ``fit`` and ``log_likelihood`` are given where an argument has to be bound first.
    pack, unpack
        From the arguments of a call to one tensor, and back.
    nesting
        How many plates are nested.
    has_globals
        Whether latents lie outside the data's plate.
    rate
        The learning rate.
    pyros
        Pyro's ELBO that the loss of one step is held against.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    module: nn.Module | None
    calls: list[Call]
    data: Any
    batch_size: int
    plate: str = "data"
    options: Mapping[str, Any] = field(default_factory=dict)
    whole: tuple[Callable[..., Any], Callable[..., Any], list[Call], Any] | None = None
    pack: Callable[..., Tensor] | None = None
    unpack: Callable[[Tensor], tuple[Any, ...]] | None = None
    nesting: int = 1
    rate: float = 3e-3
    pyros: Callable[[], pyro.infer.ELBO] = pyro.infer.Trace_ELBO
    has_globals: bool = False


def one_loader(calls: list[Call]) -> DataLoader[Any]:
    """Return a loader that yields the calls' arguments as they are, as tuples or by name."""
    return DataLoader([call.kwargs if call.kwargs else call.args for call in calls], batch_size=None)  # type: ignore


class AsModule(nn.Module):
    """A program as a module whose forward calls it, with the networks as a child."""

    def __init__(self, program: Callable[..., Any], networks: nn.Module | None) -> None:
        super().__init__()
        self.networks, self.program = networks, program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(*args, **kwargs)


def _as_modules(program: Program) -> Program:
    return replace(
        program,
        model=AsModule(program.model, program.module),
        guide=AsModule(program.guide, program.module),
    )


def _packed(program: Program) -> Program:
    pack, unpack = program.pack, program.unpack
    assert pack is not None and unpack is not None

    def model(x: Tensor) -> Any:
        return program.model(*unpack(x))

    def guide(x: Tensor) -> Any:
        return program.guide(*unpack(x))

    packed = [pack(*call.args) for call in program.calls]
    return replace(program, model=model, guide=guide, calls=[Call((x,)) for x in packed], data=torch.cat(packed))


def _bound(program: Program) -> Program:
    assert program.whole is not None
    model, guide, calls, data = program.whole
    return replace(program, model=model, guide=guide, calls=calls, data=data)


def _nested(program: Program) -> Program:
    return replace(program, options={**program.options, "max_plate_nesting": program.nesting})


def _one_by_one(program: Program) -> Program:
    return replace(program, options={**program.options, "vectorize_particles": False})


CHANGES: dict[str, Callable[[Program], Program]] = {
    "max_plate_nesting": _nested,
    "arguments bound": _bound,
    "arguments packed into one tensor": _packed,
    "vectorize_particles=False": _one_by_one,
    "in modules": _as_modules,
}


def changes_of(program: Program, relevant: frozenset[str]) -> list[str]:
    """Return the relevant changes that a program can undergo, in the order in which they are made."""
    possible = {
        "max_plate_nesting": program.nesting > 1,
        "arguments bound": program.whole is not None,
        "arguments packed into one tensor": program.pack is not None,
        "vectorize_particles=False": True,
        "in modules": program.module is not None,
    }
    return [name for name in CHANGES if possible[name] and name in relevant]


def started(make: Callable[[int], Program], seed: int, changes: tuple[str, ...] = ()) -> Program:
    """Build a program from a seed, make its changes, and run it once: parameters without a module begin to be then."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    program = make(seed)
    for name in changes:
        program = CHANGES[name](program)
    with torch.no_grad():
        trace = program.calls[0](poutine.trace(program.guide).get_trace)
        program.calls[0](poutine.replay(program.model, trace=trace))
    return program


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, and raise ``TypeError`` for one that this version of the package does not have."""
    known = inspect.signature(function).parameters
    for name in options:
        if name not in known:
            raise TypeError(f"{function.__name__} has no argument {name!r}")
    return dict(options)
