"""An error of a command is one line and an exit status, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["exit_status"]

# What wrong arguments, files and data raise, and a bound that stopped being finite. Others are faults of the package.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, FloatingPointError)


def exit_status(name: str, command: Callable[..., int | None], *args: Any, **kwargs: Any) -> int:
    """Run a command and return its exit status: 2 after an error, which is printed after ``name``, 130 after Ctrl-C.

    >>> exit_status("double", lambda number: print(2 * number), 3)
    6
    0
    """
    try:
        return command(*args, **kwargs) or 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        print(f"{name}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
