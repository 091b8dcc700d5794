"""Measure how near annealed importance sampling comes to log p(x), and what it takes.

    python benchmarks/annealing.py RUN --out docs/annealing.png       # RUN is a folder that train_vae.py wrote
    python benchmarks/annealing.py RUN --num-data 1000 --only gap --temperatures 1000

Two questions, each a panel of the picture and rows of the CSV file beside it:

* gap: between which bounds log p(x) lies for data that the decoder simulates, by ``sandwich``, as the number of
  temperatures grows.
* compute: what importance sampling and annealing say of the same test images, by ``log_likelihood`` and ``ais``, as
  their time grows. So do Wu, Burda, Salakhutdinov and Grosse, *On the Quantitative Analysis of Decoder-Based Generative
  Models*, 2017.

A time is that of the whole call on so many data, compilation from a warm cache included.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from timing import machine, product_rate

import pyro_vae
from pyro_vae.commands.runs import load_data, load_run
from pyro_vae.display import with_error

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEMPERATURES = (10, 30, 100, 300, 1000)
PARTICLES = (10, 100, 1000, 10_000, 100_000)
FIELDS = ("question", "estimator", "size", "lower", "upper", "error", "seconds_per_datum", "marked")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder that train_vae.py wrote")
    parser.add_argument("--out", type=Path, default=Path("annealing.png"), help="the picture (default: annealing.png)")
    parser.add_argument("--only", choices=["gap", "compute"], help="one of the questions (default: both)")
    parser.add_argument("--num-data", type=int, default=200, help="simulated data, and test images (default: 200)")
    parser.add_argument("--num-chains", type=int, default=8, help="annealed particles a datum (default: 8)")
    parser.add_argument("--temperatures", type=int, nargs="+", default=TEMPERATURES, help="numbers of temperatures")
    parser.add_argument("--particles", type=int, nargs="*", default=PARTICLES, help="numbers of importance samples")
    return parser.parse_args(argv)


def timed(call: Callable[[], Any], num_data: int) -> tuple[Any, float]:
    """Return what a call returns, and its seconds a datum."""
    start = time.perf_counter()
    return call(), (time.perf_counter() - start) / num_data


def gap_rows(vae: Any, args: argparse.Namespace) -> list[tuple[Any, ...]]:
    rows = []
    for size in args.temperatures:
        bounds, seconds = timed(
            lambda size=size: pyro_vae.sandwich(
                vae.model, vae.guide, args.num_data, args.num_chains, size, compile=True, seed=0, progress=True
            ),
            args.num_data,
        )
        mark = bounds.forwards.mark or bounds.backwards.mark
        rows.append(("gap", "sandwich", size, bounds.lower, bounds.upper, bounds.gap_error, seconds, mark))
        print(f"{size:6d} temperatures: {bounds}, {seconds:.3f} s a datum {mark}", flush=True)
    return rows


def compute_rows(vae: Any, x: torch.Tensor, args: argparse.Namespace) -> list[tuple[Any, ...]]:
    options: dict[str, Any] = {"compile": True, "seed": 0, "progress": True}
    programs = vae.model, vae.guide, x
    calls = {
        "importance sampling": (args.particles, lambda K: pyro_vae.log_likelihood(*programs, K, **options)),
        "annealing": (args.temperatures, lambda T: pyro_vae.ais(*programs, args.num_chains, T, **options)),
    }
    rows = []
    for name, (sizes, call) in calls.items():
        for size in sizes:
            score, seconds = timed(lambda call=call, size=size: call(size), len(x))
            rows.append(("compute", name, size, score.mean(), "", score.mean_error(), seconds, score.mark))
            figure = f"{with_error(score.mean(), score.mean_error(), score.mark)} nats"
            print(f"{name}, {size}: {figure}, {seconds:.4f} s a datum", flush=True)
    return rows


def draw(rows: Sequence[tuple[Any, ...]], title: str, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    gaps = [row for row in rows if row[0] == "gap"]
    for side, label in ((3, "lower bound"), (4, "upper bound")):
        left.plot([row[2] for row in gaps], [row[side] for row in gaps], "o-", label=label)
    left.set(xscale="log", xlabel="temperatures", ylabel="log p(x), nats", title="simulated data")
    for name in ("importance sampling", "annealing"):
        chosen = [row for row in rows if row[1] == name]
        seconds, values, errors = ([row[i] for row in chosen] for i in (6, 3, 5))
        right.errorbar(seconds, values, errors, fmt="o-", capsize=2, label=name)
    right.set(xscale="log", xlabel="seconds a datum", title="test images")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    config, vae = load_run(args.run)
    title = f"{machine(torch.device('cpu'))}; products at {product_rate(torch.device('cpu')) / 1e9:,.0f} GFLOP/s"
    print(title)
    rows = [] if args.only == "compute" else gap_rows(vae, args)
    if args.only != "gap":
        rows += compute_rows(vae, load_data(config).test[: args.num_data], args)
    with args.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([FIELDS, *rows])
    draw(rows, title, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
