"""One option of the command line: its default, for all or for each program or objective, its type and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Option", "shown", "widths"]


def widths(text: str | int | list[int]) -> int | list[int]:
    """Return a width, or the widths of one layer, which have commas between them; numbers stay as they are."""
    if not isinstance(text, str):
        return text
    numbers = [int(number) for number in text.split(",")]
    return numbers if "," in text else numbers[0]


@dataclass(frozen=True)
class Option:
    """One option of the command line."""

    default: Any  # or a default for each program or objective that takes the option
    help: str
    type: Callable[[str], Any] = str
    choices: Iterable[str] | None = None
    nargs: str | None = None
    metavar: str | None = None
    least: int | None = None
    unset: str = "none"  # what the help says of a default of None

    @property
    def defaults(self) -> dict[str, Any]:
        """Return the default of each program or objective that takes the option; empty if all do."""
        return self.default if isinstance(self.default, dict) else {}

    @property
    def initial(self) -> Any:
        """Return the value of the option where it is not given."""
        return None if self.defaults else self.default

    def describe(self) -> str:
        """Return the help with the default."""
        if not self.defaults:
            return f"{self.help} (default: {self.unset if self.default is None else shown(self.default)})"
        takers: dict[str, list[str]] = {}
        for taker, default in self.defaults.items():
            takers.setdefault(shown(default), []).append(taker)
        defaults = "; ".join(f"{default} for {', '.join(names)}" for default, names in takers.items())
        return f"{self.help} (default: {defaults})"

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of ``add_argument``; argparse's result then holds only what is given."""
        keywords = {"help": self.describe(), "default": argparse.SUPPRESS}
        if self.type is bool:
            return keywords | {"action": "store_true"}
        choices = None if self.choices is None else list(self.choices)
        others = {"type": self.type, "choices": choices, "nargs": self.nargs, "metavar": self.metavar}
        return keywords | {name: value for name, value in others.items() if value is not None}


def shown(default: Any) -> str:
    """Return a default as one would write it on the command line."""
    if isinstance(default, list):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else "no" if default is False else str(default)
