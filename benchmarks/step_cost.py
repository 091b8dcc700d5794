"""Draw how the time of a training step grows with the batch size, the width and the depth.

    python benchmarks/step_cost.py --out docs/step_cost.png     # five minutes on two cores
    python benchmarks/step_cost.py --device cuda

The step is that of ``fit`` for a VAE 784-H-...-H-50 on random bits, by Adam, compiled and not. Of batch size (default
100), width H (400) and number of hidden layers (1) one changes at a time. In each round both take the same number of
steps in turn; the points are medians over rounds. The dashed line is the time of the step's matrix products at the rate
of a large one, measured in the same run. The figures go to a CSV file beside the picture.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib
import torch
from packaged_step import PackagedStep
from timing import machine, product_rate, rounds, step_products
from torch import Tensor

from pyro_vae import VAE

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LATENT_DIM = 50
DEFAULTS = {"batch size": 100, "width": 400, "hidden layers": 1}
VALUES = {
    "batch size": (10, 20, 50, 100, 256, 512, 1024),
    "width": (50, 100, 200, 400, 800, 1600),
    "hidden layers": (1, 2, 3, 4, 6),
}
KINDS = {"compiled": True, "eager": False}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("step_cost.png"), help="the picture (default: step_cost.png)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a round of each (default: 0.2)")
    return parser.parse_args(argv)


def step_times(data: Tensor, sizes: dict[str, int], num_rounds: int, seconds: float) -> dict[str, float]:
    """Return the milliseconds of a step of each kind."""
    hidden_dims = (sizes["width"],) * sizes["hidden layers"]
    make = functools.partial(VAE, (28, 28), LATENT_DIM, hidden_dims)
    made = {name: PackagedStep(make, data, sizes["batch size"], compile) for name, compile in KINDS.items()}
    for step in made.values():
        step.round(100)
    (trial,) = rounds({"trial": functools.partial(made["eager"].round, 10)}, 1).values()
    steps = max(round(seconds / trial[0] * 10), 5)
    found = rounds({name: functools.partial(step.round, steps) for name, step in made.items()}, num_rounds)
    return {name: 1e3 * median(values) / steps for name, values in found.items()}


def rows_of(data: Tensor, args: argparse.Namespace, rate: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for changed, values in VALUES.items():
        for value in values:
            sizes = DEFAULTS | {changed: value}
            hidden = [sizes["width"]] * sizes["hidden layers"]
            flops = step_products([(784, *hidden, 2 * LATENT_DIM), (LATENT_DIM, *hidden, 784)], sizes["batch size"])
            times = step_times(data, sizes, args.rounds, args.seconds)
            rows.append({"changed": changed, "value": value, **times, "products": 1e3 * flops / rate})
            print(*(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in rows[-1].values()), flush=True)
    return rows


def draw(rows: list[dict[str, object]], title: str, path: Path) -> None:
    figure, axes = plt.subplots(1, len(VALUES), figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, changed in zip(axes, VALUES, strict=True):
        chosen = [row for row in rows if row["changed"] == changed]
        x = [row["value"] for row in chosen]
        for name, style in (("eager", "o-"), ("compiled", "o-"), ("products", "k--")):
            axis.loglog(x, [row[name] for row in chosen], style, label=name, markersize=4)
        others = ", ".join(f"{name} {value}" for name, value in DEFAULTS.items() if name != changed)
        axis.set(xlabel=changed, title=others)
        axis.set_xticks(x, [str(value) for value in x])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms a step")
    axes[0].legend()
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(2, (20_000, 28, 28), generator=generator, dtype=torch.uint8).to(device).float()
    rate = product_rate(device)
    title = f"{machine(device)}; products at {rate / 1e9:,.0f} GFLOP/s"
    print(title)
    rows = rows_of(data, args, rate)
    with args.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, title, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
