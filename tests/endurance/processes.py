"""Child processes made by fork from a parent that has imported torch, to be killed at any moment.

Importing torch and Pyro takes seconds, a fork milliseconds. A child can use torch after a fork if no thread of the
parent computes, so the parent uses one thread, compiles in its own process and uses no GPU.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def with_one_thread(module: str) -> None:
    """Start the script ``module`` again in an environment with one thread, unless that is the present one."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **ONE_THREAD})


def start(run: Callable[[], int], log: Path) -> int:
    """Run a function in a child process, in a process group of its own, and return its number.

    The function's value is the exit status, 1 after an exception; what it prints goes to ``log``.
    """
    sys.stdout.flush(), sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def status(pid: int) -> int | None:
    """Return the exit status of a child, minus the signal that killed it, or ``None`` while it runs."""
    ended, code = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(code) if ended else None


def ended(pid: int, seconds: float = 300.0) -> int:
    """Wait for a child, end what is left of its process group, and return its exit status."""
    deadline = time.monotonic() + seconds
    while (code := status(pid)) is None:
        if time.monotonic() > deadline:
            end_group(pid)
            os.waitpid(pid, 0)
            raise TimeoutError(f"a child still ran after {seconds:g} s")
        time.sleep(0.002)
    end_group(pid)
    return code


def end_group(pid: int) -> None:
    """Kill the processes in the group that a child began, such as the workers of its loader."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
