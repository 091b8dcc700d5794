"""Take Pyro's own examples through this package, and hold every number against Pyro's or one by hand.

    python benchmarks/pyro_examples --pyro-source FOLDER                      # a checkout of Pyro; some minutes
    python benchmarks/pyro_examples --pyro-source FOLDER --only dmm --out table.json

The examples are read from the checkout, nothing of them is copied here. Each is built at toy size with random data and
goes through SVI with our ELBO (loss beside Pyro's on the same draws), fit (bound before and after), SVI with IWAE of
five particles (loss beside five weights by plain Pyro on the same draws), log_likelihood (beside as many weights by
plain Pyro, in Monte Carlo standard errors), save and load, and load of fit's checkpoint (the same bits).

Each is first tried as the example stands; where that is refused, with the change that a user would make, which the
table names. A number that is wrong is printed as WRONG, whatever helps.
"""

from __future__ import annotations

import argparse
import functools
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
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every attempt as JSON")
    return parser.parse_args(argv)


def attempt(column: Callable[..., Any], make: Maker, is_changed: bool, settings: Settings) -> dict[str, Any]:
    """Return what came of one column of one example, as it stands or changed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = column(make, is_changed, settings)
            outcome = {"state": "right" if result.is_right else "WRONG", "text": result.text, "short": result.short}
        except Exception as error:
            lines = str(error).splitlines() or [""]
            outcome = {"state": "refused", "text": f"{type(error).__name__}: {lines[0]}", "short": "refused"}
            if not isinstance(error, (ValueError, TypeError)):
                outcome |= {"state": "failed", "short": "failed"}
    said = {str(warning.message).splitlines()[0] for warning in caught if "pyro_vae" in warning.filename}
    change = make(0).change if is_changed else None
    return {"change": change.name if change else "as it stands", **outcome, "said": sorted(said)}


def attempts(column: Callable[..., Any], make: Maker, settings: Settings) -> list[dict[str, Any]]:
    """Try a column as the example stands and, where that is not right and a change is known, changed."""
    tried = [attempt(column, make, False, settings)]
    if tried[0]["state"] != "right" and make(0).change is not None:
        tried.append(attempt(column, make, True, settings))
    return tried


def how(said: list[str]) -> str:
    """Return how the package drew particles where it said that the programs take no dimension of them."""
    ways = {"by repeating the data": ", data repeated", "one after the other": ", one by one"}
    return next((way for words, way in ways.items() if words in " ".join(said)), "")


def cell(tried: list[dict[str, Any]]) -> str:
    first, last = tried[0], tried[-1]
    wrong = next((each for each in tried if each["state"] == "WRONG"), None)
    if last["state"] != "right":
        return f"✗ {first['short']}" if wrong is None else f"**WRONG** {wrong['short']}"
    changed = "" if first is last else f"; {last['change']}"
    return f"{last['short']}{how(last['said'])}{changed}" + (f"; **WRONG** {wrong['short']} before" if wrong else "")


def counts(name: str, cells: list[list[dict[str, Any]]]) -> str:
    """Return how many examples of a column came out in which way."""
    ways = [tried[0]["state"] if tried[-1]["state"] != "right" else tried[-1]["change"] for tried in cells]
    found = ", ".join(f"{ways.count(way)} {way}" for way in dict.fromkeys(ways))
    return f"- {name}: {found}, of {len(cells)}"


def details(name: str, column: str, tried: list[dict[str, Any]]) -> str:
    lines = [f"- {name}, {column}"]
    for each in tried:
        lines.append(f"  - {each['change']}: {each['state']}; {each['text']}")
        lines += [f"    - said: {text}" for text in each["said"]]
    return "\n".join(lines)


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
        for column, run in columns.items():
            table[name][column] = attempts(run, make, Settings(args.particles))
        print(f"{name}: {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)
    print(f"pyro_vae {pyro_vae.__version__}, Pyro {pyro.__version__}, torch {torch.__version__}\n")
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(map(cell, row.values()))} |")
    print("\nRight, by what it takes:\n")
    for column in columns:
        print(counts(column, [row[column] for row in table.values()]))
    print()
    for name, row in table.items():
        for column, tried in row.items():
            print(details(name, column, tried))
    if args.out is not None:
        args.out.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(tried[-1]["state"] == "right" for row in table.values() for tried in row.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
