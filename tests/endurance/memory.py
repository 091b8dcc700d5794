"""Watch the memory of one process over compiled steps, compiled fits of fresh programs, and scorings.

    python -m tests.endurance.memory
    python -m tests.endurance.memory --steps 0 --fits 60 --scorings 0 --types

At ten points of each part, garbage collected: the resident memory (RSS, MiB), the live tensors and all live objects
that the collector knows. The slope is a straight line fitted to the last two thirds of the points, since the first fill
caches. ``--types`` also names the types whose number grew.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch

import pyro_vae
from tests.endurance import processes

POINTS = 10


class Point(NamedTuple):
    """The memory of the process after so many repetitions."""

    done: int
    megabytes: float
    tensors: int
    objects: int


def resident() -> float:
    """Return the resident memory of this process, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def census() -> Counter[str]:
    """Count the live objects that the garbage collector knows, by type."""
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())


def look(done: int) -> Point:
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(each), torch.Tensor) for each in objects)  # isinstance would ask each its class
    return Point(done, resident(), tensors, len(objects))


def slope(points: list[Point], field: str) -> float:
    """Return the slope a repetition of a straight line through the last two thirds of the points."""
    late = points[len(points) // 3 :]
    return statistics.linear_regression([p.done for p in late], [getattr(p, field) for p in late]).slope


def show(title: str, unit: int, of: str, points: list[Point], seconds: float) -> None:
    print(f"\n{title}, {seconds:.0f} s\n{'done':>8}{'RSS MiB':>10}{'tensors':>9}{'objects':>10}")
    for point in points:
        print(f"{point.done:8d}{point.megabytes:10.1f}{point.tensors:9d}{point.objects:10d}")
    growth = {name: unit * slope(points, name) for name in ("megabytes", "tensors", "objects")}
    print("slope {megabytes:+.2f} MiB, {tensors:+.2f} tensors, {objects:+.1f} objects".format(**growth), "a", of,
          flush=True)  # fmt: skip


def steps(count: int) -> list[Point]:
    """Take compiled steps in one run, and look after every tenth of them."""
    points: list[Point] = []
    vae, x = pyro_vae.VAE((8, 8), 5, (32,)), torch.bernoulli(torch.full((1000, 8, 8), 0.5))
    epoch = 50  # steps an epoch of 1,000 data, 20 at a time
    num_epochs = max(count // epoch, POINTS)

    def watch(record: dict[str, object]) -> None:
        if (len(points) + 1) * num_epochs <= record["epoch"] * POINTS:  # type: ignore[operator]
            points.append(look(int(record["step"])))  # type: ignore[call-overload]

    pyro_vae.fit(
        vae.model, vae.guide, x, valid=x[:200], num_epochs=num_epochs, batch_size=20, seed=0, compile=True,
        callbacks=[watch], progress=False,
    )  # fmt: skip
    return points


def repeated(count: int, run: Callable[[int], None]) -> list[Point]:
    """Run a function so often, and look after every tenth of the runs."""
    points = []
    for i in range(count):
        run(i)
        if (len(points) + 1) * count <= (i + 1) * POINTS:
            points.append(look(i + 1))
    return points


def compiled_fit(i: int) -> None:
    vae, x = pyro_vae.VAE((8, 8), 5, (32,)), torch.bernoulli(torch.full((200, 8, 8), 0.5))
    pyro_vae.fit(
        vae.model, vae.guide, x, valid=x[:100], num_epochs=2, batch_size=20, seed=0, compile=True, progress=False
    )


def scoring() -> Callable[[int], None]:
    vae, x = pyro_vae.VAE((8, 8), 5, (32,)), torch.bernoulli(torch.full((100, 8, 8), 0.5))

    def score(i: int) -> None:
        pyro_vae.log_likelihood(vae.model, vae.guide, x, 200, seed=0, compile=i % 2 == 0)

    return score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="compiled steps in one run (default: 20000)")
    parser.add_argument("--fits", type=int, default=30, help="compiled fits of fresh programs (default: 30)")
    parser.add_argument("--scorings", type=int, default=200, help="scorings, every other compiled (default: 200)")
    parser.add_argument("--types", action="store_true", help="name the types of object whose number grew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    parts: list[tuple[str, int, str, int, Callable[[], list[Point]]]] = [
        ("compiled steps", args.steps, "1,000 steps", 1000, lambda: steps(args.steps)),
        ("compiled fits", args.fits, "fit", 1, lambda: repeated(args.fits, compiled_fit)),
        ("scorings", args.scorings, "scoring", 1, lambda: repeated(args.scorings, scoring())),
    ]
    for title, count, of, unit, run in parts:
        if not count:
            continue
        if title != "compiled steps":  # fill the caches first, so that the census compares like with like
            compiled_fit(0) if title == "compiled fits" else [scoring()(i) for i in range(2)]
        before, started = census(), time.monotonic()
        points = run()
        show(f"{count} {title}", unit, of, points, time.monotonic() - started)
        if args.types:
            for name, growth in (census() - before).most_common(12):
                print(f"{growth:+8d} {name}")
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    processes.with_one_thread("tests.endurance.memory")
    sys.exit(main())
