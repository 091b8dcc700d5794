"""Measure every bound of one trained VAE, in the order that theory demands, and the noise of each gradient estimator.

    python benchmarks/estimators.py RUN                    # RUN: a folder that examples/train_vae.py wrote
    python benchmarks/estimators.py RUN --num-data 500 --num-particles 50 --repeats 10 --out estimators.json

The first table holds the mean over test images, in nats, with its Monte Carlo standard error for these images, and how
far each bound lies above the one before it, with the error of that difference. Within each of three chains the bounds
must rise: with more particles, with a falling Rényi order, and from the ELBO over CIWAE to IWAE. The second table holds
the signal-to-noise ratio of the guide's gradient on one batch, |mean| / standard deviation over draws of it, the median
over the guide's parameters, and its total variance as a ratio to that of reparam. From G draws, noise without any
signal would show a ratio of about 0.67 / sqrt(G).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyro_vae
from pyro_vae import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Objective, RenyiBound
from pyro_vae.commands.runs import best_device, load_data, load_run
from pyro_vae.display import with_error
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.state import evaluating, seeded


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder that train_vae.py wrote")
    parser.add_argument("--num-data", type=int, default=1000, help="the first so many test images (default: 1000)")
    parser.add_argument("--num-particles", type=int, default=50, help="K, a multiple of 5 (default: 50)")
    parser.add_argument("--repeats", type=int, default=20, help="independent estimates of each bound (default: 20)")
    parser.add_argument(
        "--gradients", type=int, default=100, help="gradients drawn for the second table (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--out", metavar="FILE", help="write the figures there, as JSON")
    args = parser.parse_args(argv)
    for name, least in (("num_data", 2), ("repeats", 2), ("gradients", 2), ("num_particles", 5)):
        if getattr(args, name) < least:
            parser.error(f"argument --{name.replace('_', '-')}: found {getattr(args, name)}, expected {least} or more")
    if args.num_particles % 5:
        parser.error(f"argument --num-particles: found {args.num_particles}, expected a multiple of 5")
    return args


def chains(k: int) -> dict[str, list[Objective]]:
    """Return chains of bounds; in each, a bound is at least as large as the one before."""
    return {
        "more particles": [MIWAE(k, 1), MIWAE(k // 5, 5), IWAE(k), IWAE(4 * k)],
        "Rényi order": [
            RenyiBound(alpha, k) for alpha in (math.inf, 2.0, 1.0, 0.5, 0.0, -1.0, -math.inf)
        ],
        "ELBO to IWAE": [ELBO(k), CIWAE(0.5, k), CIWAE(0.05, k), PIWAE(k // 5, 5)],
    }  # fmt: skip


@torch.no_grad()
def estimate(vae: pyro_vae.VAE, objective: Objective, x: Tensor, repeats: int) -> tuple[float, float]:
    """Return the mean bound over ``x`` and its Monte Carlo standard error."""
    rows = []
    for _ in range(repeats):
        rows.append(torch.cat([objective.bound(vae.model, vae.guide, batch).double() for batch in x.split(100)]))
    bounds = torch.stack(rows)  # (R, N)
    return bounds.mean().item(), (bounds.var(0).sum() / repeats).sqrt().item() / x.shape[0]


def bounds_table(vae: pyro_vae.VAE, x: Tensor, k: int, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for chain, objectives in chains(k).items():
        below: tuple[float, float] | None = None
        for objective in objectives:
            mean, error = estimate(vae, objective, x, repeats)
            rise, rise_error = (None, None) if below is None else (mean - below[0], math.hypot(error, below[1]))
            rows.append({"chain": chain, "bound": repr(objective), "mean": mean, "error": error,
                         "rise": rise, "rise_error": rise_error})  # fmt: skip
            below = (mean, error)
    return rows


def gradients_table(vae: pyro_vae.VAE, x: Tensor, k: int, repeats: int) -> list[dict[str, Any]]:
    makers: dict[str, Callable[[str], Objective]] = {
        "ELBO": lambda gradient: ELBO(k, gradient=gradient),
        "IWAE": lambda gradient: IWAE(k, gradient=gradient),
        "MIWAE": lambda gradient: MIWAE(k // 5, 5, gradient=gradient),
        "CIWAE(0.5)": lambda gradient: CIWAE(0.5, k, gradient=gradient),
        "PIWAE": lambda gradient: PIWAE(k // 5, 5, gradient=gradient),
        "Rényi(0.5)": lambda gradient: RenyiBound(0.5, k, gradient=gradient),
    }
    rows, parameters = [], list(vae.guide.parameters())
    for name, make in makers.items():
        reference = None
        for gradient in ("reparam", "stl", "dreg"):
            total, squares = 0, 0
            for _ in range(repeats):
                bound = make(gradient).bound(vae.model, vae.guide, x).mean()
                flat = torch.cat([g.flatten() for g in torch.autograd.grad(bound, parameters)]).double()
                total, squares = total + flat, squares + flat.square()
            mean = total / repeats
            variance = (squares / repeats - mean.square()).clamp(min=0) * repeats / (repeats - 1)
            reference = variance.sum() if reference is None else reference
            used = variance > 0
            rows.append({"bound": name, "gradient": gradient,
                         "signal_to_noise": (mean[used].abs() / variance[used].sqrt()).median().item(),
                         "variance_ratio": (variance.sum() / reference).item()})  # fmt: skip
    return rows


def show(bounds: list[dict[str, Any]], gradients: list[dict[str, Any]]) -> None:
    print("| chain | bound | nats per image | above the one before |\n|---|---|---|---|")
    for row in bounds:
        rise = "" if row["rise"] is None else with_error(row["rise"], row["rise_error"])
        print(f"| {row['chain']} | {row['bound']} | {with_error(row['mean'], row['error'])} | {rise} |")
    print("\n| bound | gradient | signal-to-noise | variance, as a ratio to reparam |\n|---|---|---|---|")
    for row in gradients:
        print(f"| {row['bound']} | {row['gradient']} | {row['signal_to_noise']:.3f} | {row['variance_ratio']:.3f} |")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config, vae = load_run(args.run)
        device = best_device(args.device)
        vae.to(device)
        x = load_data(config).test[: args.num_data].to(device)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"estimators.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(x)} test images of {config['data']}, K = {args.num_particles}, {args.repeats} draws of each bound; "
          f"gradients on 100 images, {args.gradients} of each; torch {torch.__version__} on {device}, "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip
    with seeded(args.seed, device), evaluating(vae):
        bounds = bounds_table(vae, x, args.num_particles, args.repeats)
        gradients = gradients_table(vae, x[:100], args.num_particles, args.gradients)
        truth = pyro_vae.log_likelihood(vae.model, vae.guide, x, 5000, seed=args.seed)
    show(bounds, gradients)
    print(f"\nlog p(x) by 5,000 importance samples: {truth}")
    wrong = [row["bound"] for row in bounds if row["rise"] is not None and row["rise"] < -4 * row["rise_error"]]
    print(f"out of order: {', '.join(wrong)}" if wrong else "every chain is in order")
    if args.out:
        figures = {"data": config["data"], "num_data": len(x), "num_particles": args.num_particles, "bounds": bounds,
                   "gradients": gradients, "log_likelihood": truth.mean(),
                   "log_likelihood_error": truth.mean_error()}  # fmt: skip
        write_text(Path(args.out), json.dumps(figures, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
