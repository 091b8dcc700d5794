"""How many images a second do several ranks train on and score, against one process?

    python benchmarks/ranks.py --ranks 2 --rounds 3

A VAE 784-400-50 of black and white pixels, each process on one CPU thread, the ranks on one machine by gloo. Settings
take turns, so that they meet the same machine. Of each run the fastest epoch counts, compilation left out; of the
rounds the median. The estimates of log p(x) are compared, too: they are to be the same.

Ranks share each batch, and send all gradients once a step: here 0.7 million numbers, 2.8 MB. So what ranks gain in
training depends on the number of data a step, the global batch.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import pyro_vae
from pyro_vae.runtime.ranks import ranks

BATCHES = (100, 500, 2000, 4000)
NUM_DATA, NUM_SCORED, NUM_PARTICLES = 20_000, 10_000, 1000


def measured(out: Path) -> None:
    """Train and score as one rank, and write the data a second of each setting."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((NUM_DATA, 784), 0.2))
    found: dict[str, Any] = {}
    for batch_size in BATCHES:
        vae = pyro_vae.VAE(data_shape=(784,), latent_dim=50, hidden_dims=(400,))
        options = {"num_epochs": 4, "batch_size": batch_size, "seed": 0, "progress": False, "compile": True}
        history = pyro_vae.fit(vae.model, vae.guide, x, **options)
        seconds = min(record["seconds"] for record in history.records[1:])
        found[f"fit, batches of {batch_size}"] = NUM_DATA / seconds
        found["bound"] = history.records[-1]["train_bound"]
    torch.manual_seed(1)  # the same weights for any number of ranks, whose draws in training are others
    vae = pyro_vae.VAE(data_shape=(784,), latent_dim=50, hidden_dims=(400,))
    pyro_vae.log_likelihood(vae.model, vae.guide, x[:100], NUM_PARTICLES, seed=0, compile=True)  # kernels go to disk
    started = time.perf_counter()
    score = pyro_vae.log_likelihood(vae.model, vae.guide, x[:NUM_SCORED], NUM_PARTICLES, seed=0, compile=True)
    seconds = time.perf_counter() - started
    found["log_likelihood"], found["log p(x)"] = NUM_SCORED * NUM_PARTICLES / seconds, score.mean()
    if ranks().is_first:
        out.write_text(json.dumps(found))


def run(size: int) -> dict[str, float]:
    """Return what so many processes measure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launched = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    with tempfile.TemporaryDirectory() as folder:
        out, processes = Path(folder) / "found.json", []
        for rank in range(size):
            own = {} if size == 1 else launched | {"RANK": rank, "LOCAL_RANK": rank}
            environment = os.environ | {name: str(value) for name, value in own.items()} | {"OMP_NUM_THREADS": "1"}
            processes.append(subprocess.Popen([sys.executable, __file__, "--worker", str(out)], env=environment))
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit("a process failed")
        found: dict[str, float] = json.loads(out.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the medians as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measured(arguments.worker)
        return
    found: dict[int, list[dict[str, float]]] = {1: [], arguments.ranks: []}
    for number in range(arguments.rounds):
        for size in found:
            found[size].append(run(size))
            print(f"round {number + 1}, {size} processes, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    table = {}
    print(f"{'':26}{'1 process':>12}{f'{arguments.ranks} ranks':>12}{'ratio':>8}")
    for name in found[1][0]:
        one, many = (statistics.median(each[name] for each in found[size]) for size in found)
        table[name] = {"one": one, "many": many, "ratio": many / one}
        print(f"{name:26}{one:12,.6g}{many:12,.6g}{many / one:8.2f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
