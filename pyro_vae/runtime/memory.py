"""How much memory this process may use, and sizes in words.

It is that of the machine, or less where the process or its container (cgroup) is limited. What is free at the moment
does not count: a rule that depended on it would decide differently from one run to the next.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["in_words", "total_memory"]

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # versions 2 and 1
_UNKNOWN = 4 << 30  # where the system does not tell, as Windows


def total_memory() -> int:
    """Return the bytes of memory that this process may use.

    >>> total_memory() > 2**20
    True
    """
    sizes = []
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        sizes += [limit] * (limit != resource.RLIM_INFINITY)
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            sizes.append(int(Path(path).read_text(encoding="ascii")))
    return min(sizes, default=_UNKNOWN)


def in_words(num_bytes: float) -> str:
    """Return a number of bytes with its unit.

    >>> in_words(268_435_456), in_words(2000)
    ('256 MiB', '1.95 KiB')
    """
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} GiB"
