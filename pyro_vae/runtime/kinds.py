r"""Sets of values that an argument may have, and the errors for the others.

.. math:: A = \{1, 2, \dots\}, \quad A = (0, \infty), \quad A = \{\text{'tanh'}, \text{'relu'}\}, \quad \dots

A set is a :class:`Kind`, which tells whether it ``accepts`` a value and refuses another by the argument's name, with
what was found and what was expected: by a ``TypeError`` where an object of a class was expected, such as a module, and
by a ``ValueError`` where it was a number, a name or a list of these.

Numbers are those of Python and NumPy; ``True`` is none. An integer is at most :math:`2^{31} - 1`, and so is the number
of entries of one datum: beyond, torch runs out of memory, or of bits, in the middle of the work.
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
    """Return a value as a message shows it: short, on one line, and without what a tensor or a module holds.

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
    """Raise ``ValueError``: the argument ``name`` has another value than was expected."""
    raise ValueError(f"{name}: found {shown(value)}, expected {expected}")


@dataclass(frozen=True)
class Kind:
    """A set of values; ``expected`` says in words which."""

    expected: str

    def accepts(self, value: Any) -> bool:
        """Whether a value belongs to the set."""
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
    """The real numbers from ``low`` to ``high``, NaN not among them; ``open`` says which ends do not belong.

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
    """All real numbers, and NaN too: what a plain ``float`` may be, whose range the function knows."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and not _exceeds_64_bits(value)


@dataclass(frozen=True)
class Sizes(Kind):
    """Sequences of integers from ``least`` up, ``count`` of them or more.

    With ``bounded``, the product of them is bounded too; with ``or_one``, an integer stands for a sequence of itself.
    An integer in a sequence may also be one of NumPy's, and the sequence an array of these.
    """

    least: int = 1
    count: int = 0
    bounded: bool = False
    or_one: bool = False

    def accepts(self, value: Any) -> bool:
        return self._is_sequence(value) and not self._is_too_large(value)

    def check(self, name: str, value: Any) -> None:
        if not self._is_sequence(value):
            refuse(name, value, self.expected)
        if self._is_too_large(value):
            refuse(name, value, f"{self.expected}, each{' and their product' * self.bounded} at most {_MOST}")

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
    """One of some values, most often strings."""

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
    """Every value: what only the function itself can judge."""

    def accepts(self, value: Any) -> bool:
        return True
