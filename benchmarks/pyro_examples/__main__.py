"""Take Pyro's own examples through this package, and hold every number against Pyro's or one by hand.

    python benchmarks/pyro_examples --pyro-source FOLDER                      # a checkout of Pyro; some minutes
    python benchmarks/pyro_examples --pyro-source FOLDER --only dmm --out table.json

The examples are read from the checkout, nothing of them is copied here. Each is built at toy size with random data and
goes through SVI with our ELBO (loss beside Pyro's on the same draws), fit (bound before and after), SVI with IWAE of
five particles (loss beside five weights by plain Pyro on the same draws), log_likelihood (beside as many weights by
plain Pyro, in Monte Carlo standard errors), save and load, and load of fit's checkpoint (the same bits).

Each is first tried as the example stands; where that fails, with the fewest changes that help, whose names the table
holds. A number that is wrong is printed as WRONG, whatever helps.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import images
import matplotlib
import others
import pyro
import torch
from columns import COLUMNS
from program import changes_of
from result import Maker, Settings

import pyro_vae

EXAMPLES: dict[str, Callable[[Path], Maker]] = {
    "VAE": images.vae,
    "M2, without labels": functools.partial(images.m2, labelled=False, enumerated=False),
    "M2, with labels": functools.partial(images.m2, labelled=True, enumerated=False),
    "M2, its script's guide": functools.partial(images.m2, labelled=False, enumerated=True),
    "CVAE": images.cvae,
    "DMM": functools.partial(others.dmm, num_iafs=0),
    "DMM with flow": functools.partial(others.dmm, num_iafs=1),
    "AIR": images.air,
    "scANVI, without labels": functools.partial(others.scanvi, labelled=False),
    "scANVI, with labels": functools.partial(others.scanvi, labelled=True),
    "ProdLDA": others.prod_lda,
    "sparse gamma DEF": functools.partial(others.sparse_gamma, kind="custom"),
    "sparse gamma DEF, easy guide": functools.partial(others.sparse_gamma, kind="easy"),
    "sparse gamma DEF, auto guide": functools.partial(others.sparse_gamma, kind="auto"),
    "flow as guide": others.flow_as_guide,
    "flow as prior": others.flow_as_prior,
    "flow as density": others.flow_as_density,
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyro-source", type=Path, required=True, metavar="FOLDER", help="a checkout of Pyro 1.9")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="examples whose name has one of these")
    parser.add_argument(
        "--columns", nargs="+", default=[""], metavar="WORD", help="columns whose name has one of these"
    )
    parser.add_argument("--particles", type=int, default=1000, help="K of log_likelihood (default: 1000)")
    parser.add_argument("--most-changes", type=int, default=3, help="so many changes together at most (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every attempt as JSON")
    return parser.parse_args(argv)


def attempt(column: Callable[..., Any], make: Maker, changes: tuple[str, ...], settings: Settings) -> dict[str, Any]:
    """Return what came of one column of one example with some changes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = column(make, changes, settings)
            outcome = {"state": "right" if result.is_right else "WRONG", "text": result.text, "short": result.short}
        except Exception as error:
            lines = str(error).splitlines() or [""]
            outcome = {"state": "refused", "text": f"{type(error).__name__}: {lines[0]}", "short": "refused"}
            if not isinstance(error, (ValueError, TypeError)):
                outcome |= {"state": "failed", "short": "failed"}
    said = {str(warning.message).splitlines()[0] for warning in caught if "pyro_vae" in warning.filename}
    return {"changes": list(changes), **outcome, "said": sorted(said)}


def attempts(
    column: Callable[..., Any], relevant: frozenset[str], make: Maker, settings: Settings, most: int
) -> list[dict[str, Any]]:
    """Try a column with no change, with one, with two; up to the first that helps."""
    possible, tried = changes_of(make(0), relevant), []
    for number in range(most + 1):
        for changes in itertools.combinations(possible, number):
            tried.append(attempt(column, make, changes, settings))
            if tried[-1]["state"] == "right":
                return tried
    return tried


def cell(tried: list[dict[str, Any]]) -> str:
    last, wrong = tried[-1], [each for each in tried if each["state"] == "WRONG"]
    if last["state"] != "right":
        return f"**WRONG** {wrong[0]['short']}" if wrong else f"✗ {tried[0]['short']}"
    how = f" ({' + '.join(last['changes'])})" if last["changes"] else ""
    return f"✓ {last['short']}{how}" + (f"; **WRONG** {wrong[0]['short']} before" if wrong else "")


def details(name: str, column: str, tried: list[dict[str, Any]]) -> str:
    shown = [tried[0], *(each for each in tried[1:-1] if each["state"] == "WRONG"), *tried[1:][-1:]]
    if tried[-1]["state"] != "right":  # the changes one at a time
        shown = [tried[0], *(each for each in tried[1:] if len(each["changes"]) == 1 or each["state"] == "WRONG")]
    lines = []
    for each in shown:
        changes = " + ".join(each["changes"]) or "as it stands"
        lines.append(f"  - {changes}: {each['state']}; {each['text']}")
        lines += [f"    - said: {text}" for text in each["said"]]
    return "\n".join([f"- {name}, {column}", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    chosen = {name: load for name, load in EXAMPLES.items() if any(word.lower() in name.lower() for word in args.only)}
    columns = {name: run for name, run in COLUMNS.items() if any(word in name for word in args.columns)}
    table: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, load in chosen.items():
        try:
            make = load(args.pyro_source)
        except (FileNotFoundError, ValueError) as error:
            print(f"pyro_examples: {error}", file=sys.stderr)
            return 2
        table[name], since = {}, time.perf_counter()
        for column, (run, relevant) in columns.items():
            table[name][column] = attempts(run, relevant, make, Settings(args.particles), args.most_changes)
        print(f"{name}: {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)
    print(f"pyro_vae {pyro_vae.__version__}, Pyro {pyro.__version__}, torch {torch.__version__}\n")
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(map(cell, row.values()))} |")
    print()
    for name, row in table.items():
        for column, tried in row.items():
            print(details(name, column, tried))
    if args.out is not None:
        args.out.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(tried[-1]["state"] == "right" for row in table.values() for tried in row.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
