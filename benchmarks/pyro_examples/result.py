"""What every column of the table has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
from program import Program

__all__ = ["Maker", "Result", "Settings", "optimizer", "relative"]

Maker = Callable[[int], Program]


class Settings(NamedTuple):
    """How much is drawn: the particles of log p(x)."""

    num_particles: int


class Result(NamedTuple):
    """Whether the number is right, the number beside the other, and what the table shows of it."""

    is_right: bool
    text: str
    short: str


def relative(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1.0)


def optimizer(program: Program) -> Any:
    return pyro.optim.Adam({"lr": program.rate})
