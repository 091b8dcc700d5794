"""The package's exceptions, and a context manager that names the data on which a user's program fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import OutOfMemoryError, Tensor
from torch.distributions import Distribution

__all__ = ["ConcurrentRunError", "ProgramError", "RankError", "failing_on", "no_distribution", "pyro_error_reason"]


class ConcurrentRunError(RuntimeError):
    """Raised when another thread of the process has a run under way."""


class RankError(RuntimeError):
    """Raised when another rank of the process group failed or died; the message names it."""


class ProgramError(ValueError):
    """Raised when a model and a guide do not form a pair; the message names the site."""


def pyro_error_reason(error: Exception) -> str:
    """Return the message of an error without the table of all sites that Pyro appends to it.

    Where ``pyro.sample`` was given something else than a distribution of Pyro, it says that.
    """
    reason = str(error).partition("Trace Shapes:")[0].strip()
    if not isinstance(error, (TypeError, ValueError, AttributeError)):
        return reason
    if any(word in reason for word in _OF_TUPLES):
        reason += "; a network may return a tuple where one tensor is expected"
    return _reason_at_sample(error) or reason


_OF_TUPLES = "'tuple' object has no attribute", "Number, torch.Tensor or objects implementing __torch_function__"


def no_distribution(name: str, fn: Any) -> str | None:
    """Say that a site has something else than a distribution of Pyro; ``None`` if it has one that works."""
    kind = type(fn).__name__
    if not isinstance(fn, Distribution) and not hasattr(fn, "log_prob"):
        return f"site {name!r}: found {kind}, expected a distribution, such as pyro.distributions.Normal(loc, scale)"
    return None


def _reason_at_sample(error: Exception) -> str | None:
    """Return a sentence on the innermost ``pyro.sample`` that raised an error, if what it sampled is none of Pyro's."""
    found, traceback = None, error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "sample" and frame.f_globals.get("__name__") == "pyro.primitives":
            found = frame.f_locals.get("name"), frame.f_locals.get("fn")
        traceback = traceback.tb_next
    if found is None:
        return None
    name, fn = found
    if isinstance(fn, Distribution) and not callable(fn):
        kind = type(fn).__name__
        return f"site {name!r}: found {kind} of torch.distributions, expected Pyro's, pyro.distributions.{kind}"
    return no_distribution(str(name), fn)


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
