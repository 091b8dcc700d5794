"""Data larger than memory: a memory map of 20 GiB, and a million sparse cells; rates, peaks of memory, an epoch's time.

    python benchmarks/big_data.py --out big_data.json
    python benchmarks/big_data.py map --gib 2 --seconds 5 --rounds 2

The map is a sparse file: it has its full size and takes little place on the disk, and is removed at the end. Rows that
were written are at the beginning of each gibibyte, the others are zeros; a read takes them through the system's cache
as it does all pages. *In memory* is the first gibibyte of the same file as an array. Both train and are scored in turn
in one process, by wall clock and by the time of the processor, which a busy machine changes less. Peaks of memory (the
resident set) are of processes of their own. What they hold before they have data is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import pyro_vae
from pyro_vae.data import SparseSplit, Stored, as_batches
from pyro_vae.training.run_state import RunState

D, CELLS, GENES = 784, 1_000_000, 2_000
ROWS = (1 << 30) // (4 * D)  # of a gibibyte
SCORED, PARTICLES, CELL_BATCH = 20_000, 20, 500


def make_map(path: Path, gib: int) -> None:
    """Write an ``.npy`` file of black and white pixels that takes no place where they are all black."""
    rng, num_rows = np.random.default_rng(0), gib * ROWS
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, D)}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        file.truncate(begin + num_rows * D * 4)
        for first in range(0, num_rows, ROWS):
            file.seek(begin + first * D * 4)
            file.write((rng.random((20_000, D), dtype="f4") > 0.8).astype("<f4").tobytes())


def memory(name: str) -> int:
    """Return a size of this process as Linux tells it, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def vae() -> Any:
    torch.manual_seed(0)
    return pyro_vae.VAE(data_shape=(D,), latent_dim=50, hidden_dims=(400,))


def train(data: Any, seconds: float, compile: bool) -> tuple[float, float]:
    """Train for some seconds of an epoch; return the rows a second of wall clock and of processor time."""
    program, original, marks = vae(), RunState.count_steps, []

    def count_steps(state: RunState, num_steps: int, num_data: int) -> None:
        original(state, num_steps, num_data)
        if state.step > 64:  # compiled, and the first windows read
            marks.append((time.perf_counter(), time.process_time(), state.count))
            if marks[-1][0] - marks[0][0] > seconds:
                os.kill(os.getpid(), signal.SIGINT)

    RunState.count_steps = count_steps
    try:
        pyro_vae.fit(program.model, program.guide, data, num_epochs=1, seed=0, compile=compile, progress=False)
    finally:
        RunState.count_steps = original
    (wall, cpu, first), (wall_end, cpu_end, last) = marks[0], marks[-1]
    return (last - first) / (wall_end - wall), (last - first) / (cpu_end - cpu)


def score(data: Any) -> tuple[float, float]:
    """Score rows; return the rows a second of wall clock and of processor time."""
    program, wall, cpu = vae(), time.perf_counter(), time.process_time()
    pyro_vae.log_likelihood(program.model, program.guide, data, PARTICLES, seed=0)
    return SCORED / (time.perf_counter() - wall), SCORED / (time.process_time() - cpu)


def interleaved(contestants: dict[str, Callable[[], tuple[float, float]]], rounds: int) -> dict[str, list[float]]:
    """Return the median rates of each contestant, by wall clock and by processor time."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            found[name].append(run())
    return {name: [median(rates) for rates in zip(*each, strict=True)] for name, each in found.items()}


def rates(path: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Compare the map with its first gibibyte in memory."""
    mapped = np.load(path, mmap_mode="r")
    whole = torch.from_numpy(np.array(mapped[:ROWS]))
    found: dict[str, Any] = {}
    for compile in (False, True):
        run = {
            "in memory": partial(train, whole, seconds, compile),
            "map": partial(train, Stored(mapped), seconds, compile),
        }
        found[f"fit, {'compiled' if compile else 'eager'}"] = interleaved(run, rounds)
    run = {"in memory": partial(score, whole[:SCORED]), "map": partial(score, Stored(mapped[:SCORED]))}
    found["log_likelihood"] = interleaved(run, rounds)
    for each in found.values():
        each["ratio"] = [a / b for a, b in zip(each["map"], each["in memory"], strict=True)]
    return {"rows a second: wall, processor": found}


def peak(path: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Train on a part of an epoch of the map, score a part, and read all of it once, in little memory."""
    before, data = memory("VmRSS"), Stored(np.load(path, mmap_mode="r"))
    train(data, seconds, compile=False)
    trained = memory("VmHWM")
    score(Stored(np.load(path, mmap_mode="r")[-SCORED:]))
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    for x in as_batches(data, 100, device="cpu", dtype=torch.float32, shuffle=True):
        count += len(x)
    assert count == len(data)
    return {
        "data": repr(data), "bytes of the file": path.stat().st_size, "RSS before": before,
        "peak RSS, trained": trained, "peak RSS, all of it read": memory("VmHWM"),
        "a pass without training, s: wall, processor": [time.perf_counter() - wall, time.process_time() - cpu],
    }  # fmt: skip


def made_cells() -> Any:
    """Return counts of a million cells, of which a hundred of 2,000 genes are not zero: one in each twenty."""
    import scipy.sparse

    rng, per_cell, some = np.random.default_rng(0), 100, 100_000
    values = np.empty(CELLS * per_cell, np.float32)
    genes = np.empty(CELLS * per_cell, np.int32)
    for first in range(0, CELLS, some):
        rows = slice(first * per_cell, (first + some) * per_cell)
        values[rows] = 1 + rng.poisson(1.0, some * per_cell)
        genes[rows] = (np.arange(per_cell) * 20 + rng.integers(0, 20, (some, per_cell))).reshape(-1)
    pointers = np.arange(0, CELLS * per_cell + 1, per_cell, dtype=np.int64)
    return scipy.sparse.csr_array((values, genes, pointers), shape=(CELLS, GENES))


def cells(path: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Train an epoch on a million cells in memory, and read them from an AnnData file."""
    import anndata

    before, matrix = memory("VmRSS"), made_cells()
    held = memory("VmRSS")
    found: dict[str, Any] = {"RSS before": before, "RSS with the cells": held}
    likelihood = pyro_vae.NegativeBinomial(pyro_vae.MLP(10, (GENES,), hidden_dims=(128,)), (GENES,))
    program = pyro_vae.VAE((GENES,), 10, (128,), likelihood)
    wall, cpu = time.perf_counter(), time.process_time()
    options = {"num_epochs": 1, "batch_size": CELL_BATCH, "seed": 0, "progress": False}
    history = pyro_vae.fit(program.model, program.guide, matrix, **options)
    found["an epoch, s: wall, processor"] = [time.perf_counter() - wall, time.process_time() - cpu]
    found["bound, nats a cell"] = history.records[0]["train_bound"]
    found["peak RSS"] = memory("VmHWM")
    anndata.AnnData(matrix).write_h5ad(path.with_suffix(".h5ad"))
    stored = Stored(path.with_suffix(".h5ad"))
    for name, data in {"in memory": SparseSplit(matrix), "AnnData file": stored}.items():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in as_batches(data, CELL_BATCH, device="cpu", dtype=torch.float32, shuffle=True):
            pass
        found[f"a pass without training, {name}, s: wall, processor"] = [
            time.perf_counter() - wall, time.process_time() - cpu
        ]  # fmt: skip
    return found | {"file": repr(stored)}


PARTS = {"rates": rates, "peak": peak, "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["map", "cells"], metavar="map, cells")
    parser.add_argument("--gib", type=int, default=20, help="the size of the map")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run of training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are; by default that of temporary files")
    parser.add_argument("--out", type=Path, help="a file for the results, as JSON")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if args.child:
        print(json.dumps(PARTS[args.child](args.folder, args.seconds, args.rounds)))
        return
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "load": os.getloadavg()}
    with TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "big.npy"
        if "map" in args.parts:
            make_map(path, args.gib)
        for name in (["rates", "peak"] if "map" in args.parts else []) + ["cells"] * ("cells" in args.parts):
            command = [sys.executable, __file__, "--child", name, "--folder", str(path)]
            command += ["--seconds", str(args.seconds), "--rounds", str(args.rounds)]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(result.stdout.splitlines()[-1])
            print(name, json.dumps(found[name], indent=2), flush=True)
    found["load at the end"] = os.getloadavg()
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
