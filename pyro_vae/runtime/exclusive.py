"""A lock that allows one run at a time in a process.

All threads of a process share Pyro's effect handlers, its parameter store and torch's generators. A second run in
another thread would see the sample sites of the first and advance its generators, so it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pyro_vae.errors import ConcurrentRunError
from pyro_vae.runtime.ranks import together

__all__ = ["exclusive"]

_lock = threading.RLock()
_holder: tuple[str, str] | None = None  # the long run under way, and the name of its thread


@contextmanager
def exclusive(name: str, *, brief: bool = False, shared: bool = False) -> Iterator[None]:
    """Lock the process for a run; runs inside it, in the same thread, are part of it.

    Parameters
    ----------
    name
        The name of the run, for messages.
    brief
        Mark a run that takes a moment: other threads wait for it, whereas a long run makes them fail.
    shared
        Mark a run that all ranks of a process group make together, see :func:`pyro_vae.runtime.ranks.together`.

    Raises
    ------
    ConcurrentRunError
        If a long run is under way in another thread.

    Examples
    --------
    >>> with exclusive("fit"), exclusive("log_likelihood"):  # as in a callback
    ...     pass
    """
    global _holder
    while not _lock.acquire(timeout=0.02):
        if (held := _holder) is not None:
            raise ConcurrentRunError(
                f"{name}: found {held[0]} under way in thread {held[1]!r}, expected one run at a time in a process, "
                "whose threads share Pyro's handlers and torch's generators; run them one after the other, or in "
                "processes of their own"
            )
    before = _holder
    try:
        if before is None and not brief:
            _holder = name, threading.current_thread().name
        with together(name) if shared else nullcontext():
            yield
    finally:
        _holder = before
        _lock.release()
