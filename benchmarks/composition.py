"""Measure the log-likelihood of richer priors and posteriors, and of each posterior with each prior.

    python benchmarks/composition.py --data-root DATA             # MNIST: 4 programs, 3 seeds; two hours on two cores
    python benchmarks/composition.py --parts                      # digits: each posterior with each prior; half an hour
    python benchmarks/composition.py --data-root DATA --seeds 1 --epochs 1 --num-train 1000 --num-test 100    # a trial

On MNIST, dynamically binarised, four programs are trained for the same epochs with the same seeds: a standard normal
prior or a VampPrior of 500 pseudo-inputs that start at training images, and a diagonal Gaussian or an inverse
autoregressive posterior. Encoder and decoder are 300-300, z has 40 entries. Reported of all test images are the ELBO
and the importance-sampled log p(x), in nats; ± is the standard error over the seeds, and differences are those of runs
of the same seed.

``--out FOLDER`` also writes the tables as .csv, from which the documentation is made.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timing import machine, table
from torch import nn

from pyro_vae import (
    MLP,
    VAE,
    DiagonalNormal,
    Flow,
    FlowPosterior,
    FlowPrior,
    FullNormal,
    GaussianMixture,
    LearnedNormal,
    LowRankNormal,
    MixturePosterior,
    StandardNormal,
    VampPrior,
    data,
    fit,
    log_likelihood,
    log_weights,
)
from pyro_vae.data.loading import Split
from pyro_vae.display import with_error
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.state import seeded

FLOWS = ("autoregressive", "spline", "coupling", "planar", "householder", "sylvester")
POSTERIORS = ("diagonal", "full", "low rank", "mixture", *FLOWS)
PRIORS = ("standard", "learned", "mixture", "vamp", "flow")
MNIST = (("diagonal", "standard"), ("diagonal", "vamp"), ("autoregressive", "standard"), ("autoregressive", "vamp"))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", action="store_true", help="every posterior with every prior, on digits")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds MNIST")
    parser.add_argument("--epochs", type=int, help="of each run (default: 30; with --parts 60)")
    parser.add_argument("--seeds", type=int, help="runs of each program (default: 3; with --parts 2)")
    parser.add_argument("--particles", type=int, help="K of log p(x) (default: 1000; with --parts 200)")
    parser.add_argument("--num-train", type=int, help="the first so many training images (default: all)")
    parser.add_argument("--num-test", type=int, help="the first so many test images (default: all)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="write the table there as well")
    args = parser.parse_args(argv)
    defaults = (60, 2, 200) if args.parts else (30, 3, 1000)
    for (name, least), default in zip({"epochs": 1, "seeds": 1, "particles": 2}.items(), defaults, strict=True):
        value = getattr(args, name)
        setattr(args, name, default if value is None else value)
        if getattr(args, name) < least:
            parser.error(f"argument --{name}: found {value}, expected {least} or more")
    if not args.parts and args.data_root is None:
        parser.error("argument --data-root: found none, expected the folder that holds MNIST, or --parts")
    return args


def posterior_of(name: str, shape: tuple[int, ...], latent_dim: int, hidden_dims: tuple[int, ...]) -> nn.Module:
    """Make a posterior on fully connected layers, by name."""
    if name in FLOWS:
        flow = Flow(name, latent_dim, hidden_dims[-1], num_transforms=2, hidden_dims=hidden_dims[-1:])  # type: ignore[arg-type]
        return FlowPosterior(flow, MLP(shape, None, hidden_dims))
    if name == "diagonal":
        return DiagonalNormal(MLP(shape, (2, latent_dim), hidden_dims))
    if name == "full":
        return FullNormal(MLP(shape, FullNormal.num_outputs(latent_dim), hidden_dims))
    if name == "low rank":
        return LowRankNormal(MLP(shape, (2 + 4, latent_dim), hidden_dims), rank=4)
    return MixturePosterior(MLP(shape, (4, 1 + 2 * latent_dim), hidden_dims), latent_dim)


def prior_of(name: str, posterior: nn.Module, train: Split, latent_dim: int, count: int) -> nn.Module:
    """Make a prior by name; a mixture has ``count`` components."""
    if name == "vamp":
        # of a flow the Gaussians that it starts with: the flow itself would be inverted for each of them at each z
        components = "start" if isinstance(posterior, FlowPosterior) else "posterior"
        prior = VampPrior(count, posterior, train.data_shape, components)  # type: ignore[arg-type]
        prior.start_at(train[:count])
        return prior
    if name == "flow":
        return FlowPrior(Flow("autoregressive", latent_dim))
    if name == "mixture":
        return GaussianMixture(count, latent_dim)
    return (StandardNormal if name == "standard" else LearnedNormal)(latent_dim)


def run(names: tuple[str, str], splits: Any, args: argparse.Namespace, seed: int) -> tuple[float, float, float]:
    """Train and score a program; return the ELBO, log p(x) and the minutes of training."""
    latent_dim, count, hidden_dims = (10, 50, (200, 200)) if args.parts else (40, 500, (300, 300))
    shape, train, test = splits.data_shape, splits.train, splits.test
    if args.num_train:
        train = Split(train.values[: args.num_train], levels=train.levels, binarize=train.binarize)
    test = test[: args.num_test or len(test)]
    started = time.perf_counter()
    with seeded(seed, torch.device("cpu")):
        posterior = posterior_of(names[0], shape, latent_dim, hidden_dims)
        vae = VAE(shape, latent_dim, hidden_dims, prior=prior_of(names[1], posterior, train, latent_dim, count),
                  posterior=posterior)  # fmt: skip
    vae.likelihood.start_at_mean(train.mean())
    fit(vae.model, vae.guide, train, num_epochs=args.epochs, seed=seed,
        lr=lambda done: 2e-3 * 0.5 * (1 + math.cos(math.pi * done)))  # fmt: skip
    minutes = (time.perf_counter() - started) / 60
    with seeded(seed, torch.device("cpu")), torch.no_grad():
        elbo = torch.cat([log_weights(vae.model, vae.guide, x, 10).mean(0) for x in test.split(500)]).mean().item()
    score = log_likelihood(vae.model, vae.guide, test, args.particles, seed=seed)
    if score.mark:
        print(score.caveat(), file=sys.stderr)
    return elbo, float(score.mean()), minutes


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def shown(values: Sequence[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.2f}" if math.isnan(error) else with_error(mean, error)


def on_mnist(args: argparse.Namespace) -> Iterator[list[list[str]]]:
    """Yield the table after each seed: the four programs, and what each gains over the first."""
    splits = data.load("mnist", root=args.data_root)
    results: dict[tuple[str, str], list[tuple[float, float, float]]] = {names: [] for names in MNIST}
    for seed in range(args.seeds):  # interleaved, so that all have the same machine
        for names in MNIST:
            results[names].append(run(names, splits, args, seed))
            print(f"\nseed {seed}: {names[1]} prior, {names[0]} posterior: {results[names][-1]}", file=sys.stderr)
        rows = [["posterior", "prior", "ELBO", "log p(x)", "gain of ELBO", "gain of log p(x)", "minutes"]]
        for names, found in results.items():
            elbos, scores, minutes = zip(*found, strict=True)
            first_elbos, first_scores, _ = zip(*results[MNIST[0]], strict=True)
            gains = [
                shown([b - a for a, b in zip(first, own, strict=True)])
                for first, own in ((first_elbos, elbos), (first_scores, scores))
            ]
            rows.append([*names, shown(elbos), shown(scores), *gains, f"{statistics.fmean(minutes):.1f}"])
        yield rows


def on_digits(args: argparse.Namespace) -> Iterator[list[list[str]]]:
    """Yield the table after each posterior: log p(x) with every prior."""
    splits = data.load("digits")
    rows = [["posterior", *PRIORS]]
    for posterior in POSTERIORS:
        row = [posterior]
        for prior in PRIORS:
            row.append(shown([run((posterior, prior), splits, args, seed)[1] for seed in range(args.seeds)]))
        print("\n" + " ".join(row), file=sys.stderr)
        rows.append(row)
        yield rows


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    rows: list[list[str]] = []
    for rows in on_digits(args) if args.parts else on_mnist(args):
        if args.out is not None:  # at once: a run that dies has measured what it has
            lines = io.StringIO()
            csv.writer(lines, lineterminator="\n").writerows(rows)
            write_text(args.out / f"composition_{'parts' if args.parts else 'mnist'}.csv", lines.getvalue())
    print(machine(torch.device("cpu")))
    print(f"{args.epochs} epochs, K = {args.particles}, seeds 0 to {args.seeds - 1}")
    table(rows[0], rows[1:])


if __name__ == "__main__":
    main()
