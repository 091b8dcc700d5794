"""Single cells with known truth: pyro_vae.CellVAE beside scvi-tools' SCVI and the model that drew the cells.

    python benchmarks/cells.py --out cells.json
    python benchmarks/cells.py --num-cells 1000 --num-epochs 20 --num-particles 200

Both are trained with the same architecture, one hidden layer of 128 and 10 latents, a negative binomial with an inverse
dispersion of each gene, and the batch in both halves, for the same epochs of the same cells in batches of 128. SCVI has
its own defaults beside: batch normalisation, dropout, and a KL that is warmed up. Each is run in a process of its own,
in turn, ``--rounds`` times. Without scvi-tools its rows are left out. What is printed:

* log p: of held-out cells given batch and observed library size, nats a cell, by ``log_likelihood`` for all; ± is its
  Monte Carlo error. The mark says that k̂ is above 0.7 for more than a tenth of the cells.
* log ρ: the root mean squared error of the log normalised expression of held-out cells, in nats.
* AUC, LFC, P: of differential expression between types 0 and 1. The area under the ROC curve of the probability, for
  genes whose true mean log₂ fold change is above 0.25; the root mean squared errors of that mean and of the
  probability.
* called, false: how many genes are called changed at an expected false discovery rate of 5 %, and the share of them
  that are not. 60 % of the genes are exactly the same in all types.
* seconds, processor, MiB: of training, compiling included, by the clock and of a processor, for each round; and by how
  much the memory of the process grew at its peak.

The true model has the same figures from its own posterior.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cells_truth import Truth, truth_packed
from timing import machine, table

import pyro_vae
from pyro_vae.display.digits import with_error

DELTA, FIRST, SECOND, HIDDEN, LATENTS, BATCH = 0.25, "type 0", "type 1", 128, 10, 128
NAMES = ("pyro_vae.CellVAE", "scvi.model.SCVI", "true model")


def processor_seconds() -> float:
    """Return the time that this process and those that it has started have spent on a processor."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak() -> float:
    """Return the largest memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(name: str, args: argparse.Namespace, evaluates: bool) -> dict[str, float]:
    """Train a contestant in this process, and hold it against the truth."""
    truth = Truth(args.num_genes)
    cells = pyro_vae.Cells.from_anndata(truth.cells(args.num_cells, 1), batch_key="batch")
    test = cells.of(truth.cells(args.num_test, 2))
    torch.manual_seed(args.seed)
    before, start, used = peak(), time.perf_counter(), processor_seconds()
    contestant = TRAINED[name](truth, cells, args)
    found = {"seconds": time.perf_counter() - start, "processor": processor_seconds() - used, "MiB": peak() - before}
    return {**found, **held_against(truth, contestant, test, args)} if evaluates else found


class Ours:
    """A program of the package."""

    def __init__(self, vae: pyro_vae.CellVAE, cells: pyro_vae.Cells) -> None:
        self.vae, self.cells, self.pair = vae, cells, (vae.model, vae.guide)

    def expression(self, test: pyro_vae.Cells) -> Any:
        return test.normalized_expression(self.vae, 1.0, num_particles=25, seed=0).to_numpy()

    def differential(self) -> tuple[Any, Any]:
        found = self.cells.differential_expression(
            self.vae, FIRST, SECOND, "type", delta=DELTA, num_samples=5000, seed=0
        )
        return found["probability"].to_numpy(), found["lfc_mean"].to_numpy()


class Theirs:
    """An SCVI."""

    def __init__(self, model: Any) -> None:
        import cells_scvi

        self.model, self.scvi, self.pair = model, cells_scvi, cells_scvi.pair(model)

    def expression(self, test: pyro_vae.Cells) -> Any:
        return self.scvi.expression(self.model, test.adata, 25)

    def differential(self) -> tuple[Any, Any]:
        return self.scvi.differential(self.model, FIRST, SECOND, DELTA)


def train_ours(truth: Truth, cells: pyro_vae.Cells, args: argparse.Namespace) -> Ours:
    vae = cells.program(LATENTS, hidden_dims=(HIDDEN,))
    pyro_vae.fit(vae.model, vae.guide, cells.data, num_epochs=args.num_epochs, batch_size=BATCH, seed=args.seed,
                 progress=False)  # fmt: skip
    return Ours(vae, cells)


def train_theirs(truth: Truth, cells: pyro_vae.Cells, args: argparse.Namespace) -> Theirs:
    import cells_scvi

    return Theirs(cells_scvi.trained(cells.adata, LATENTS, HIDDEN, args.num_epochs, BATCH, args.seed))


def train_true(truth: Truth, cells: pyro_vae.Cells, args: argparse.Namespace) -> Ours:
    """Train the guide of the true model alone, on cells that it draws."""
    vae, more = truth.program(), cells.of(truth.cells(20_000, 3))
    for lr in (2e-3, 5e-4):
        pyro_vae.fit(vae.model, vae.guide, truth_packed(more, False), num_epochs=args.num_epochs // 4 + 1, lr=lr,
                     batch_size=200, seed=args.seed, progress=False)  # fmt: skip
    return Ours(vae, cells)


TRAINED = dict(zip(NAMES, (train_ours, train_theirs, train_true), strict=True))


def held_against(truth: Truth, contestant: Any, test: pyro_vae.Cells, args: argparse.Namespace) -> dict[str, float]:
    """Return what a contestant says of held-out cells and of the genes, beside what is true of them."""
    found: dict[str, float] = {}
    score = pyro_vae.log_likelihood(*contestant.pair, truth_packed(test, False), args.num_particles, seed=0)
    found |= {"log_p": float(score.mean()), "log_p_error": float(score.mean_error()),
              "heavy": float((score.khat > 0.7).double().mean())}  # fmt: skip
    if isinstance(contestant, Theirs):
        found["own_log_p"] = contestant.scvi.own_marginal(contestant.model, test.adata, args.num_particles)
    log_rho = np.log(contestant.expression(test))
    found["log_rho"] = float(np.sqrt(((log_rho - test.adata.layers["log_expression"]) ** 2).mean()))
    changes = truth.fold_changes(FIRST, SECOND)
    mean, share = changes.mean(0).numpy(), (changes.abs() > DELTA).double().mean(0).numpy()
    probability, lfc = contestant.differential()
    is_changed, order = np.abs(mean) > DELTA, np.argsort(-probability, kind="stable")
    fdr = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    called = order[: int((fdr <= 0.05).sum())]
    ranks = np.argsort(np.argsort(probability)) + 1
    num, rest = is_changed.sum(), (~is_changed).sum()
    return {
        **found,
        "auc": float((ranks[is_changed].sum() - num * (num + 1) / 2) / (num * rest)),
        "lfc": float(np.sqrt(((lfc - mean) ** 2).mean())),
        "probability": float(np.sqrt(((probability - share) ** 2).mean())),
        "changed": int(num),
        "called": len(called),
        "false": float((~is_changed[called]).mean()) if len(called) else 0.0,
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("num-cells", 4000, "cells to train on"), ("num-test", 1000, "held-out cells"), ("num-genes", 500, "genes"),
        ("num-epochs", 200, "epochs"), ("num-particles", 1000, "importance samples of a cell"),
        ("rounds", 2, "how often each is trained, for the seconds"), ("seed", 0, "seed of weights and batches"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="some of the contestants")
    parser.add_argument("--out", help="a JSON file for all figures")
    parser.add_argument("--in-process", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(name: str, round_: int) -> dict[str, float] | None:
    """Return the figures of a contestant from a process of its own, ``None`` if its package is missing."""
    command = [sys.executable, __file__, *sys.argv[1:], "--in-process", name, str(round_)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named 'scvi'" in done.stderr:
        print(f"{name} is left out: scvi-tools is not installed")
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "load": os.getloadavg()[0]}


def main() -> None:
    args = parse()
    if args.in_process:
        name, round_ = args.in_process
        print(json.dumps(measured(name, args, evaluates=int(round_) == 0)))
        return
    print(f"{args.num_cells} cells, {args.num_genes} genes, {args.num_epochs} epochs, K = {args.num_particles}; "
          f"{machine(torch.device('cpu'))}, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {}
    for round_ in range(args.rounds):
        for name in args.only:
            if (round_ == 0 or (name in found and name != "true model")) and (result := run(name, round_)) is not None:
                found.setdefault(name, []).append(result)
    rows = []
    for name, (first, *_) in found.items():
        of_rounds = [" ".join(f"{each[key]:.0f}" for each in found[name]) for key in ("seconds", "processor", "MiB")]
        mark = "†" if first["heavy"] > 0.1 else ""
        rows.append([name, with_error(first["log_p"], first["log_p_error"], mark),
                     *(f"{first[key]:.3f}" for key in ("log_rho", "auc", "lfc", "probability")),
                     f"{first['called']} of {first['changed']}", f"{first['false']:.1%}", *of_rounds])  # fmt: skip
    table(("", "log p", "log ρ", "AUC", "LFC", "P", "called", "false", "seconds", "processor", "MiB"), rows)
    if own := found.get(NAMES[1], [{}])[0].get("own_log_p"):
        print(f"SCVI's own estimate of its log p, get_marginal_ll, is {own:.2f}")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"arguments": {**vars(args), "in_process": None}, "found": found}, file, indent=1)


if __name__ == "__main__":
    main()
