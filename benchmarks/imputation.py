"""Fill the holes of a table whose entries are known: pyro_vae.Table beside the imputers of scikit-learn.

    python benchmarks/imputation.py
    python benchmarks/imputation.py --num-rows 500 --missing 0.4 --only mean "k neighbours"

Rows are drawn from a model of two latents, five real columns, two of counts, two that are binary and two nominal ones;
some columns depend on the latents by curves. Entries are hidden at random. Each method is fitted on the table with its
holes, fills them in, and is held against what was hidden:

* real, counts: root mean squared errors, in standard deviations of the columns.
* categories: the share that is right, of binary and nominal columns.
* seconds, MiB: of fitting and filling together, the seconds of a processor, compilers that were started included, and
  by how much the memory of a process of its own grew at its peak.

The true model, with 20,000 latents from the prior for each row, is the best that can be done on average. For
scikit-learn, numbers are standardised and C categories become C - 1 indicators, of which, with what they lack to 1, the
largest is taken: C of them would tell each other, and its iterations would not move.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.special import gammaln, log_softmax, softmax
from timing import machine, table

import pyro_vae

Array = npt.NDArray[Any]
REAL, COUNT = ["r1", "r2", "r3", "r4", "r5"], ["c1", "c2"]
NOMINAL = {"b1": ["no", "yes"], "b2": ["no", "yes"], "n1": list("abc"), "n2": list("vwxyz")}
NOISE = np.array([0.3, 0.4, 0.5, 0.3, 0.4])


class Truth:
    """The model that rows are drawn from; z is ``(N, 2)``."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.logits = {name: 3 * rng.normal(size=(3, len(names))) for name, names in NOMINAL.items()}

    def means(self, z: Array) -> Array:
        a, b = z.T
        return np.stack([a, b, a * b, np.sin(2 * a) + 0.5 * b, a**2 - 1], -1)

    def rates(self, z: Array) -> Array:
        a, b = z.T
        return np.exp(np.stack([1 + 0.7 * a, 0.5 + 0.6 * b - 0.4 * a], -1))

    def log_probs(self, z: Array, name: str) -> Array:
        return log_softmax(np.concatenate([z, np.ones((len(z), 1))], 1) @ self.logits[name], axis=1)

    def rows(self, num_rows: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(num_rows, 2))
        columns: dict[str, Any] = dict(
            zip(REAL, (self.means(z) + NOISE * rng.normal(size=(num_rows, 5))).T, strict=True)
        )
        columns["r1"] = 50_000 + 20_000 * columns["r1"]  # an income
        columns |= dict(zip(COUNT, rng.poisson(self.rates(z)).T, strict=True))
        for name, names in NOMINAL.items():
            drawn = (self.log_probs(z, name) + rng.gumbel(size=(num_rows, len(names)))).argmax(1)
            columns[name] = np.array(names, dtype=object)[drawn]
        return pd.DataFrame(columns)


def true_model(df: pd.DataFrame) -> tuple[Array, dict[str, Array]]:
    """Return posterior means of numbers ``(N, 7)`` and the probabilities of categories, under the true model."""
    truth, z = Truth(), np.random.default_rng(1).normal(size=(20_000, 2))
    numbers = df[REAL + COUNT].to_numpy(float)
    numbers[:, 0] = (numbers[:, 0] - 50_000) / 20_000
    means, rates = truth.means(z), truth.rates(z)
    log_w = np.zeros((len(df), len(z)))
    for j in range(5):
        log_w += np.nan_to_num(-0.5 * ((numbers[:, j, None] - means[:, j]) / NOISE[j]) ** 2)
    for j in range(2):
        x = numbers[:, 5 + j, None]
        log_w += np.nan_to_num(x * np.log(rates[:, j]) - rates[:, j] - gammaln(x + 1))
    for name, names in NOMINAL.items():
        log_p, there = truth.log_probs(z, name), df[name].notna().to_numpy()
        log_w[there] += log_p[:, [names.index(value) for value in df[name][there]]].T
    w = softmax(log_w, axis=1)
    found = w @ np.concatenate([means, rates], 1)
    found[:, 0] = 50_000 + 20_000 * found[:, 0]
    return found, {name: w @ np.exp(truth.log_probs(z, name)) for name in NOMINAL}


def vae(df: pd.DataFrame, num_epochs: int) -> tuple[Array, dict[str, Array]]:
    torch.manual_seed(0)
    kinds = dict.fromkeys(COUNT, "count") | dict.fromkeys(["b1", "b2"], "binary")
    fitted = pyro_vae.Table.from_frame(df, kinds)
    program = fitted.vae(latent_dim=4, hidden_dims=(64, 64))
    pyro_vae.fit(
        *pyro_vae.observed_only(program.model, program.guide), fitted.pack(df), num_epochs=num_epochs, lr=3e-3,
        objective=pyro_vae.IWAE(num_particles=5), seed=0, progress=False,
    )  # fmt: skip
    found = fitted.imputation(program.model, program.guide, df, num_particles=1000, seed=0)
    return found.mean[REAL + COUNT].to_numpy(), {name: found.probabilities[name].to_numpy() for name in NOMINAL}


def sklearn_imputer(make: Callable[[], Any]) -> Callable[[pd.DataFrame], tuple[Array, dict[str, Array]]]:
    """Return a function that imputes standardised numbers and indicators by an imputer of scikit-learn."""

    def imputed(df: pd.DataFrame) -> tuple[Array, dict[str, Array]]:
        numbers = df[REAL + COUNT].to_numpy(float)
        mean, std = np.nanmean(numbers, 0), np.nanstd(numbers, 0)
        blocks = [(numbers - mean) / std]
        for name, names in NOMINAL.items():
            indicators = (df[name].to_numpy()[:, None] == np.array(names[:-1])).astype(float)
            indicators[df[name].isna()] = np.nan
            blocks.append(indicators)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an iteration that has not converged after its ten rounds
            filled = make().fit_transform(np.concatenate(blocks, 1))
        parts = np.split(filled, np.cumsum([7, *(len(names) - 1 for names in NOMINAL.values())])[:-1], axis=1)
        shares = [np.concatenate([part, 1 - part.sum(1, keepdims=True)], 1) for part in parts[1:]]
        return mean + std * parts[0], dict(zip(NOMINAL, shares, strict=True))

    return imputed


def methods(num_epochs: int) -> dict[str, Callable[[pd.DataFrame], tuple[Array, dict[str, Array]]]]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    return {
        "mean": sklearn_imputer(SimpleImputer),
        "k neighbours": sklearn_imputer(lambda: KNNImputer(n_neighbors=10)),
        "iterative": sklearn_imputer(lambda: IterativeImputer(random_state=0)),
        "pyro_vae.Table": lambda df: vae(df, num_epochs),
        "true model": true_model,
    }


def processor_seconds() -> float:
    """Return the time that this process and those that it has started have spent on a processor."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the errors, seconds and memory of a method, in this process."""
    full = Truth().rows(args.num_rows, args.seed)
    rng = np.random.default_rng(args.seed + 1)
    hidden = pd.DataFrame(rng.random(full.shape) < args.missing, columns=full.columns)
    method, df = methods(args.num_epochs)[name], full.mask(hidden)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, processor_seconds()
    numbers, probabilities = method(df)
    seconds = processor_seconds() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    true, holes = full[REAL + COUNT].to_numpy(float), hidden[REAL + COUNT].to_numpy()
    squares = np.where(holes, (numbers - true) / true.std(0), 0) ** 2
    rmse = [float(np.sqrt(squares[:, part].sum() / holes[:, part].sum())) for part in (slice(5), slice(5, 7))]
    right = np.concatenate([
        (np.array(names)[probabilities[key].argmax(1)] == full[key])[hidden[key]] for key, names in NOMINAL.items()
    ])  # fmt: skip
    return {"real": rmse[0], "counts": rmse[1], "categories": float(right.mean()), "seconds": seconds, "MiB": memory}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rows", type=int, default=2000, help="rows of the table (default: 2000)")
    parser.add_argument("--missing", type=float, default=0.2, help="the share that is hidden (default: 0.2)")
    parser.add_argument("--num-epochs", type=int, default=200, help="epochs of the VAE (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seeds the table and its holes (default: 0)")
    parser.add_argument("--only", nargs="+", help="some of the methods, by name")
    parser.add_argument("--in-process", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    if args.in_process:
        print(json.dumps(measured(args.in_process, args)))
        return
    print(f"{args.num_rows} rows, {args.missing:.0%} hidden; {machine(torch.device('cpu'))}")
    rows = []
    for name in args.only or methods(1):
        command = [sys.executable, __file__, *sys.argv[1:], "--in-process", name]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append([name, *(f"{result[key]:.3f}" for key in ("real", "counts", "categories")),
                     f"{result['seconds']:.1f}", f"{result['MiB']:.0f}"])  # fmt: skip
    table(("", "real, RMSE", "counts, RMSE", "categories right", "seconds", "MiB"), rows)


if __name__ == "__main__":
    main()
