"""An honest call of everything that is public, in sizes so small that it takes a millisecond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.runtime import calls_of_functions as of_functions
from tests.runtime import calls_of_parts as of_parts
from tests.runtime import nasty
from tests.runtime.judges import JUDGES
from tests.runtime.world import World


class Call(NamedTuple):
    """A function, honest arguments of it, and the judges of those that are to be replaced."""

    function: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    judges: dict[str, nasty.Judge]


def table(w: World) -> dict[str, Call]:
    """Every call by its name; ``w`` is what they share."""
    calls: dict[str, Call] = {}

    def add(name: str, made: Callable[..., Any], arguments: Any, /, **judges: nasty.Judge) -> None:
        make = arguments if callable(arguments) else lambda: dict(arguments)
        known = {argument: judges.get(argument, JUDGES.get(argument)) for argument in make()}
        missing = [argument for argument, judge in known.items() if judge is None]
        assert not missing, f"{name}: no judge of {missing}"
        calls[name] = Call(made, make, known)

    of_parts.objectives(add)
    of_parts.schedules(add, w)
    of_parts.networks(add)
    of_parts.parts(add, w)
    of_parts.likelihoods(add)
    of_parts.programs(add)
    of_functions.functions(add, w)
    of_functions.methods(add, w)
    of_functions.pictures(add)
    return calls
