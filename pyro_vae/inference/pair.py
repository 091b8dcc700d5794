"""Two programs that run together: a model and its guide, and how they run with several particles."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

from pyro_vae.inference.frozen import with_copied_buffers, with_disturbed_parameters
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import isolated
from pyro_vae.runtime.modules import owners, placement

__all__ = ["ProgramPair", "Ways", "is_packaged", "numbers_of", "parts_of", "root_of"]

_TRUSTED = ("pyro_vae.", "torch.nn.", "zuko.")
_MIXING = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Flatten, nn.Unflatten, nn.RNNBase)  # dimensions by their number
_FLAGS = (bool, str, type(None))
_MOST_NUMBERS = 16  # that are tried out: a program with more of them counts something


@dataclass(frozen=True)
class ProgramPair:
    """A model p(x, z) and a guide q(z|x).

    Attributes
    ----------
    model, guide
        The programs, both called with a batch: data ``(B, *data_shape)``, or several arguments.
    max_plate_nesting
        How many plates they have at least, the data plate included. Particles go left of them.
    vectorize_particles
        How several particles are drawn, see :mod:`pyro_vae.inference.particles`.
    """

    model: StochasticFunction
    guide: StochasticFunction
    max_plate_nesting: int = 1
    vectorize_particles: Any = True

    def isolated(self) -> ProgramPair:
        """Return the pair run in a parameter store of its own, see :func:`~pyro_vae.inference.isolation.isolated`."""
        return replace(self, model=isolated(self.model), guide=isolated(self.guide))

    def with_copied_buffers(self) -> ProgramPair:
        """Return the pair run in a parameter store of its own on copies of its buffers."""
        halves = (with_copied_buffers(isolated(program)) for program in (self.model, self.guide))
        return replace(self, model=next(halves), guide=next(halves))

    def with_disturbed_parameters(self) -> ProgramPair:
        """Return the pair run in a parameter store of its own on other values of its parameters."""
        halves = (with_disturbed_parameters(isolated(program)) for program in (self.model, self.guide))
        return replace(self, model=next(halves), guide=next(halves))

    def placement(self, data: Any = None) -> tuple[torch.device, torch.dtype]:
        """Return the device and the floating dtype of the pair's parameters, without any those of the data."""
        return placement(self.model, self.guide, data=data)


def root_of(program: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what a program is under all that is wrapped around it, a module or a function, and how it is called.

    The second is the name of a method and the arguments that are bound: data by their form, numbers by their type, as
    they may differ from step to step, and modules too, which :func:`parts_of` tells apart.

    >>> root_of(functools.partial(isolated("".join), sep=None))
    ('', ('sep', None, 'join'))
    """
    called: list[Any] = []
    while True:
        if (inner := getattr(program, "__wrapped__", None)) is not None:
            called.append(type(program).__name__)
            program = inner
        elif isinstance(program, functools.partial):
            is_isolated = program.func.__module__ == isolated.__module__
            keywords = [each for item in program.keywords.items() for each in item]
            bound = [*program.args[3 if is_isolated else 0 :], *keywords]
            called += [_told_apart(value) for value in bound]
            program = program.args[0] if is_isolated else program.func
        else:
            owner = getattr(program, "__self__", program)
            return owner, (*called, "" if owner is program else program.__name__)


def _told_apart(value: Any) -> Any:
    """Return what tells one bound argument from another: a flag or a function itself, the form of a tensor."""
    if isinstance(value, torch.Tensor):
        return "tensor", value.dim()
    return value if isinstance(value, (*_FLAGS, FunctionType, BuiltinFunctionType)) else type(value)


def is_packaged(programs: ProgramPair) -> bool:
    """Return whether they are the halves of a program of this package, with parts that take particles alone."""
    roots = [root_of(program)[0] for program in (programs.model, programs.guide)]
    recipes = [getattr(root, "recipe", None) for root in roots]
    if not isinstance(recipes[0], dict) or recipes[0] != recipes[1]:
        return False
    parts = (part for root in roots for part in root.modules())
    return all(type(part).__module__.startswith(_TRUSTED) and not isinstance(part, _MIXING) for part in parts)


def parts_of(programs: ProgramPair) -> tuple[Any, ...]:
    """Return the modules of a pair and their flags and modes, on which it may depend whether it takes particles."""
    parts = _modules_of(programs)
    flags = [(name, value) for part in parts for name, value in vars(part).items() if type(value) in (bool, str)]
    return tuple(map(weakref.ref, parts)), tuple(flag for flag in flags if flag[0] != "training")


def numbers_of(programs: ProgramPair) -> dict[tuple[int, str], int]:
    """Return the whole numbers in the modules of a pair, by module and name: a dimension may be one of them."""
    parts = enumerate(_modules_of(programs))
    return {(i, name): value for i, part in parts for name, value in vars(part).items() if type(value) is int}


def _modules_of(programs: ProgramPair) -> list[Any]:
    return [part for half in (programs.model, programs.guide) for owner in owners(half) for part in owner.modules()]


class Ways:
    """The ways that were found for programs, by the whole numbers in their modules, counters left out."""

    def __init__(self) -> None:
        self.found: dict[frozenset[Any], Any] = {}
        self.counters: set[Any] = set()  # the places of numbers that a run changes

    def get(self, numbers: dict[Any, int]) -> Any:
        last = next(reversed(self.found.values()), None) if len(self.found) >= _MOST_NUMBERS else None
        return self.found.get(self._key(numbers), last)

    def add(self, before: dict[Any, int], after: dict[Any, int], way: Any) -> None:
        self.counters |= {place for place in before if after.get(place) != before[place]}
        self.found[self._key(before)] = way

    def _key(self, numbers: dict[Any, int]) -> frozenset[Any]:
        return frozenset(item for item in numbers.items() if item[0] not in self.counters)
