"""Time several contestants in one process: interleaved rounds, medians and ratios.

In every round each contestant does the same work once, in turn, so that a machine that slows down or speeds up does so
for all of them. The median over the rounds is reported.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple, TypeVar

import pyro
import torch

from pyro_vae.runtime.precision import Precision, precise

Made = TypeVar("Made")


def machine(device: torch.device) -> str:
    """Return a line with the version of torch, the device and the number of threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"torch {torch.__version__} on {device} ({name}), {torch.get_num_threads()} threads"


def present(makers: Mapping[str, Callable[[], Made]]) -> dict[str, Made]:
    """Make the contestants; name in a line, and leave out, each whose package is missing."""
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {str(error.name).partition('.')[0]} is not installed")
        except Unsupported as error:
            print(f"{name} is left out: {error}")
    return made


class Unsupported(Exception):
    """A contestant cannot run here."""


def rounds(contestants: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round, after one that does not count.

    Every call must wait for its results.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(num_rounds + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if i > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def steps_of_half_a_second(run: Callable[[int], Any]) -> int:
    """Return how many steps ``run(steps)`` takes in half a second, at least 10."""
    run(5)
    started = time.perf_counter()
    run(20)
    return max(round(0.5 * 20 / (time.perf_counter() - started)), 10)


@contextmanager
def as_fit_does(device: torch.device, precision: Precision = "highest") -> Iterator[None]:
    """Run programs as ``fit`` and ``log_likelihood`` do: without Pyro's validation, at their precision of products."""
    with pyro.validation_enabled(False), precise(precision, device):
        yield


class Held(NamedTuple):
    """The memory of a GPU that torch has given away, and that it holds, in MiB."""

    allocated: float
    reserved: float


def held_memory(device: torch.device) -> Held:
    """Return what is allocated on a GPU, and what torch holds there once it has let go of what is free; else zeros."""
    if device.type != "cuda":
        return Held(0.0, 0.0)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return Held(torch.cuda.memory_allocated(device) / 2**20, torch.cuda.memory_reserved(device) / 2**20)


def peak_memory(run: Callable[[], Any], device: torch.device) -> float:
    """Return the peak of what is allocated on a GPU while ``run()`` runs, in MiB."""
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def ratio(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> float:
    """Return a contestant's time over the reference's: the median over rounds of the ratio in a round."""
    return median(a / b for a, b in zip(seconds[name], seconds[reference], strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, its columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for i, row in enumerate([head, *rows]):
        cells = [cell.ljust(width) if j == 0 else cell.rjust(width)
                 for j, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        print(f"| {' | '.join(cells)} |")
        if i == 0:
            print(f"|{'|'.join('-' * (width + 1) + (':' if j else '-') for j, width in enumerate(widths))}|")


def product_rate(device: torch.device, size: int = 2048, repeats: int = 7) -> float:
    """Return the median rate of float32 matrix products at pyro_vae's precision, in operations a second."""
    a, b = torch.randn(2, size, size, device=device)
    seconds = []
    with precise("highest", device):
        for i in range(repeats + 1):
            started = time.perf_counter()
            (a @ b)[0, 0].item()
            if i > 0:
                seconds.append(time.perf_counter() - started)
    return 2 * size**3 / median(seconds)


def step_products(widths: Sequence[Sequence[int]], batch_size: int) -> int:
    """Return the floating-point operations of the matrix products in one training step of a VAE.

    ``widths`` are those of the encoder's layers, data first, and of the decoder's. A layer has one product forward and
    two backward; the first layer has one backward, since its input needs no gradient.
    """
    layers = [a * b for chain in widths for a, b in pairwise(chain)]
    return 2 * batch_size * (3 * sum(layers) - layers[0])
