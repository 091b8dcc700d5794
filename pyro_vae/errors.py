"""The package's exceptions, and a context manager that names the data on which a user's program fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import OutOfMemoryError, Tensor

__all__ = ["ConcurrentRunError", "ProgramError", "failing_on", "pyro_error_reason"]


class ConcurrentRunError(RuntimeError):
    """Raised when another thread of the process has a run under way."""


class ProgramError(ValueError):
    """Raised when a model and a guide do not form a pair; the message names the site."""


def pyro_error_reason(error: Exception) -> str:
    """Return the message of an error without the table of all sites that Pyro appends to it."""
    return str(error).partition("Trace Shapes:")[0].strip()


@contextmanager
def failing_on(name: str, x: Any) -> Iterator[None]:
    """Raise ``ValueError`` with the argument's name where a program fails on the data ``x``.

    These are a tensor, or several arguments, whose ``str`` gives their shapes.

    Some errors pass unchanged: ``ProgramError``, an index out of range, too little memory and a bound that is not
    finite.
    """
    try:
        yield
    except (ProgramError, ConcurrentRunError, OutOfMemoryError):
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError) as error:
        if isinstance(error, FloatingPointError) or str(error).startswith(f"{name}: "):
            raise
        shape = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"shapes {x}"
        raise ValueError(
            f"{name}: found data of {shape}, on which the programs fail: {pyro_error_reason(error)}"
        ) from error
