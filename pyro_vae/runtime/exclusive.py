"""One run at a time in a process.

Pyro's stack of effect handlers and its parameter store, torch's generators and the settings that a run borrows belong
to all threads of a process. A second run in another thread would see the first one's sample sites, and its draws would
move the first one's generators; so it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_vae.errors import ConcurrentRunError

__all__ = ["exclusive"]

_lock = threading.RLock()
_holder: tuple[str, str] | None = None  # the long run under way, and the name of its thread


@contextmanager
def exclusive(name: str, *, brief: bool = False) -> Iterator[None]:
    """Hold the process for a run; runs within it, of the same thread, are part of it.

    Parameters
    ----------
    name
        What runs, for messages.
    brief
        A run of the programs that takes a moment: others wait for it, where a long one makes them fail.

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
        yield
    finally:
        _holder = before
        _lock.release()
