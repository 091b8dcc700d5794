"""The package's own exceptions, and how the errors of other people's programs are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import OutOfMemoryError, Tensor

__all__ = ["ConcurrentRunError", "ProgramError", "failing_on", "pyro_error_reason"]


class ConcurrentRunError(RuntimeError):
    """A run that was refused, as another thread of the process has one under way."""


class ProgramError(ValueError):
    """A model and a guide that do not form a pair: the message names the site, what was found and what was expected."""


def pyro_error_reason(error: Exception) -> str:
    """Return the message of an error without the table of all sites that Pyro appends to it."""
    return str(error).partition("Trace Shapes:")[0].strip()


@contextmanager
def failing_on(name: str, x: Tensor) -> Iterator[None]:
    """Turn the error of a program that fails on data ``x`` into a ``ValueError`` that names their argument.

    A ``ProgramError`` stays what it is, and so do an index out of range, a lack of memory, a bound that is not finite.
    """
    try:
        yield
    except (ProgramError, ConcurrentRunError, OutOfMemoryError):
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError) as error:
        if isinstance(error, FloatingPointError) or str(error).startswith(f"{name}: "):
            raise
        raise ValueError(
            f"{name}: found data of shape {tuple(x.shape)}, on which the programs fail: {pyro_error_reason(error)}"
        ) from error
