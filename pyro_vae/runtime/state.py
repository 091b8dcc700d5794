"""Global state, changed for a block and restored.

The random number generators and the handlers of Ctrl-C and SIGTERM belong to the whole process, and the train/eval mode
of a module to everything that holds the module. Each context manager here changes one of them and restores it after the
block, also after an exception.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_vae.runtime.modules import owners

__all__ = [
    "evaluating",
    "generators",
    "interruptible",
    "seeded",
    "set_generators",
]


@contextmanager
def seeded(seed: int | None, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators of the CPU and of ``device`` for a block; ``None`` leaves them alone.

    >>> before = torch.get_rng_state()
    >>> with seeded(0):
    ...     first = torch.rand(2)
    >>> with seeded(0):
    ...     second = torch.rand(2)
    >>> bool((first == second).all()), torch.equal(before, torch.get_rng_state())
    (True, True)
    """
    if seed is None:
        yield
        return
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device there is
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the torch generators that a run on ``device`` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore the states that :func:`generators` returned."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


@contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Put the modules that ``programs`` are made of in eval mode (no dropout, fixed statistics) for a block."""
    modules = list(dict.fromkeys(module for each in programs for owner in owners(each) for module in owner.modules()))
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM of a block into an event, so that it never interrupts an update.

    The second signal ends the block as usual. A SIGTERM handler of the user's own stays in place. A signal to a whole
    process group also ends the workers of a data loader, and torch reports that by an error in the middle of an update.
    After the first signal this report is silenced.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, _: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        event.set()
        if hasattr(signal, "SIGCHLD"):
            before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, on_signal)}
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # what clusters and containers send before they kill
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
