r"""Sets of values that an argument may have.

.. math:: A = \{1, 2, \dots\}, \quad A = (0, \infty), \quad A = \{\text{'tanh'}, \text{'relu'}\}, \quad \dots

A set is a :class:`Kind`. Its ``check`` raises an error for any other value, with the name of the argument, the value
found and the values expected. It is a ``TypeError`` where an instance of a class was expected, such as a module, and a
``ValueError`` where a number, a name or a list of these was.

Python's and NumPy's numbers count as numbers, ``True`` does not. An integer is at most :math:`2^{31} - 1`, and so is
the number of entries of one datum: beyond that, torch runs out of memory or overflows in the middle of the work.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Anything", "Flags", "Floats", "Integers", "Kind", "Names", "Numbers", "Sizes", "refuse", "shown"]

_MOST = 2**31 - 1


def shown(value: Any) -> str:
    """Return a short description of a value, for messages: one line, without the numbers in a tensor or a module.

    >>> shown((3, 2.5)), shown(torch.zeros(2, 3)), shown(nn.Linear(1, 1))
    ('(3, 2.5)', 'a tensor of shape (2, 3) and torch.float32', 'Linear')
    """
    if isinstance(value, Tensor):
        sparse = "" if value.layout is torch.strided else ", sparse"
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}{sparse}{', on meta' * value.is_meta}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a stranger's __repr__
        text = type(value).__name__
    return text if len(text) <= 120 else f"{text[:100]}... ({type(value).__name__})"


def refuse(name: str, value: Any, expected: str) -> NoReturn:
    """Raise ``ValueError`` for an argument ``name`` whose value is not as expected."""
    raise ValueError(f"{name}: found {shown(value)}, expected {expected}")


@dataclass(frozen=True)
class Kind:
    """A set of values; ``expected`` describes it in words."""

    expected: str

    def accepts(self, value: Any) -> bool:
        """Return true if a value belongs to the set."""
        raise NotImplementedError

    def check(self, name: str, value: Any) -> None:
        """Raise ``ValueError`` or ``TypeError`` unless the argument ``name`` has a value of this kind."""
        if not self.accepts(value):
            refuse(name, value, self.expected)


@dataclass(frozen=True)
class Integers(Kind):
    """The integers from ``least`` to ``most``, as ``int``.

    >>> Integers("a positive integer", 1).check("num_epochs", True)
    Traceback (most recent call last):
    ...
    ValueError: num_epochs: found True, expected a positive integer
    """

    least: int = 0
    most: int = _MOST

    def accepts(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def check(self, name: str, value: Any) -> None:
        if not self.accepts(value):
            too_large = isinstance(value, int) and value > self.most == _MOST
            refuse(name, value, self.expected + f", at most {_MOST}" * too_large)


@dataclass(frozen=True)
class Numbers(Kind):
    """The real numbers from ``low`` to ``high`` without NaN; ``open`` names the ends that are excluded.

    >>> Numbers("a number in [0, 1)", 0, 1, "high").check("decay", 1.0)
    Traceback (most recent call last):
    ...
    ValueError: decay: found 1.0, expected a number in [0, 1)
    """

    low: float = -math.inf
    high: float = math.inf
    open: str = ""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or _exceeds_64_bits(value):
            return False
        number = float(value)
        above = self.low < number if self.open in ("low", "both") else self.low <= number
        return above and (number < self.high if self.open in ("high", "both") else number <= self.high)

    def check(self, name: str, value: Any) -> None:
        if not self.accepts(value):
            refuse(name, value, self.expected + ", or a float beyond 64 bits" * _exceeds_64_bits(value))


def _exceeds_64_bits(value: Any) -> bool:
    return isinstance(value, int) and abs(value) >= 2**63


@dataclass(frozen=True)
class Floats(Kind):
    """The real numbers and NaN, for a plain ``float`` whose range the function checks itself."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and not _exceeds_64_bits(value)


@dataclass(frozen=True)
class Sizes(Kind):
    """Sequences of at least ``count`` integers, each ``least`` or more.

    With ``bounded``, their product is bounded too. With ``or_one``, a single integer stands for a sequence of one.
    NumPy's integers and arrays of them are accepted.
    """

    least: int = 1
    count: int = 0
    bounded: bool = False
    or_one: bool = False

    def accepts(self, value: Any) -> bool:
        return self._is_sequence(value) and not self._is_too_large(value)

    def check(self, name: str, value: Any) -> None:
        if not self._is_sequence(value):
            refuse(name, value, self.expected + self._as_list(value))
        if self._is_too_large(value):
            refuse(name, value, f"{self.expected}, each{' and their product' * self.bounded} at most {_MOST}")

    def _as_list(self, value: Any) -> str:
        """Say how a single number is given as a list, where what was expected does not say that it is one."""
        is_whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0
        return f", in a list such as [{int(value)}]" if is_whole and self.expected == "positive integers" else ""

    def _is_sequence(self, value: Any) -> bool:
        if isinstance(value, np.ndarray):
            value = value.tolist() if value.ndim == 1 and value.dtype.kind in "iu" else None
        if self.or_one and type(value) is int:
            value = [value]
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
            return False
        right = all(isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in value)
        return right and len(value) >= self.count and all(size >= self.least for size in value)

    def _is_too_large(self, value: Any) -> bool:
        sizes = [value] if isinstance(value, int) else list(map(int, value))
        return max([0, *sizes]) > _MOST or (self.bounded and math.prod(sizes) > _MOST)


@dataclass(frozen=True)
class Names(Kind):
    """A few values, most often strings."""

    choices: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        return any(isinstance(value, type(choice)) and value == choice for choice in self.choices)


@dataclass(frozen=True)
class Flags(Kind):
    """True and False."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Anything(Kind):
    """Every value, where only the function itself can judge."""

    def accepts(self, value: Any) -> bool:
        return True
