r"""Where does data parallelism stop to pay for a model of this size? Measured constants, and a simulation with them.

    python benchmarks/scaling.py --measure constants.json      # on this machine, two ranks by gloo
    python benchmarks/scaling.py constants.json --csv docs/scaling.csv --picture docs/scaling.png

A step of W ranks on a batch of B data costs

.. math:: T(W, B) = \max_r \Bigl[t_0 + t_1 \frac{B}{W}\Bigr] J_r + t_2 P
          + \Bigl[2 (W - 1)\, \alpha + 2\, \frac{W - 1}{W} \frac{4 P}{\beta}\Bigr] ,

with the time :math:`t_0` of a step without data, :math:`t_1` of a datum (products and draws), :math:`t_2` of Adam for a
parameter, P parameters of four bytes, and a ring's all-reduce with latency α and bandwidth β (Patarasuk and Yuan,
*Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations*, 2009). The jitter :math:`J_r` is log-normal: the
slowest rank decides. The first four are fitted to steps that this machine has taken; those of GPUs and of their
networks are named in ``CLUSTERS``, with their sources.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed

import pyro_vae

BATCHES = (50, 100, 200, 400, 800)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
NUM_STEPS = 2000  # that are simulated of each


@dataclass(frozen=True)
class Constants:
    """Seconds of the parts of a step: without data, of a datum, of a parameter; of a message and bytes a second."""

    fixed: float
    datum: float
    parameter: float
    latency: float
    bandwidth: float
    jitter: float  # the standard deviation of the logarithm of a step's time
    num_parameters: int

    def all_reduce(self, size: int) -> float:
        """Return the seconds that the gradients take from rank to rank."""
        ring = 2 * (size - 1) / size * 4 * self.num_parameters / self.bandwidth
        return 2 * (size - 1) * self.latency + ring if size > 1 else 0.0

    def step(self, size: int, batch_size: int, generator: np.random.Generator) -> float:
        """Return the mean seconds of a step, by simulation."""
        jitter = generator.lognormal(-(self.jitter**2) / 2, self.jitter, (NUM_STEPS, size)).max(1)
        own = self.fixed + self.datum * batch_size / size
        return float((own * jitter).mean()) + self.parameter * self.num_parameters + self.all_reduce(size)


# One H100 took 341 µs for a compiled step of B = 100 on 27 November 2026, nearly all of it launches. The rest is
# assumed: 4 MFLOP a datum (6 P) at 50 TFLOP/s, and links as their makers state them: NVLink 4 (450 GB/s a direction,
# some 10 µs a message by NCCL) and InfiniBand NDR (50 GB/s, 5 µs a hop).
CLUSTERS = {
    "H100, NVLink": {"fixed": 330e-6, "datum": 8e-8, "parameter": 1e-11, "latency": 1e-5, "bandwidth": 4.5e11},
    "H100, InfiniBand": {"fixed": 330e-6, "datum": 8e-8, "parameter": 1e-11, "latency": 5e-6, "bandwidth": 5e10},
}


def _step_seconds(batch_size: int) -> tuple[float, float, int]:
    """Return the seconds of a compiled step, their relative spread over epochs, and the number of parameters."""
    vae = pyro_vae.VAE(data_shape=(784,), latent_dim=50, hidden_dims=(400,))
    num_steps = max(6400 // batch_size, 8)
    x = torch.bernoulli(torch.full((num_steps * batch_size, 784), 0.2))
    options = {"num_epochs": 6, "batch_size": batch_size, "seed": 0, "progress": False, "compile": True}
    history = pyro_vae.fit(vae.model, vae.guide, x, **options)
    seconds = [record["seconds"] / num_steps for record in history.records[1:]]
    middle = statistics.median(seconds)
    spread = statistics.stdev(seconds) / middle * num_steps**0.5  # of a step, if they are independent
    return middle, spread, sum(parameter.numel() for parameter in vae.parameters())


def _adam_seconds(num_parameters: int) -> float:
    parameter = torch.nn.Parameter(torch.zeros(num_parameters))
    parameter.grad = torch.ones(num_parameters)
    optimizer = torch.optim.Adam([parameter], fused=True)
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[5:]) / num_parameters


def _message_seconds(out: list[float], rank: int, port: int) -> None:
    """Return the seconds of an all-reduce of two ranks, of few numbers and of many."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for number in (1, 1_000_000):
        seconds, tensor = [], torch.ones(number)
        for _ in range(30):
            started = time.perf_counter()
            distributed.all_reduce(tensor)
            seconds.append(time.perf_counter() - started)
        out.append(statistics.median(seconds[5:]))
    distributed.destroy_process_group()


def _first_rank(port: int, path: str, rank: int) -> None:
    found: list[float] = []
    _message_seconds(found, rank, port)
    if rank == 0:
        Path(path).write_text(json.dumps(found))


def measure(out: Path) -> None:
    """Fit the constants of this machine, and write them."""
    torch.set_num_threads(1)
    found = [_step_seconds(batch_size) for batch_size in BATCHES]
    number = found[0][2]
    adam = _adam_seconds(number)
    datum, whole = np.polyfit(BATCHES, [seconds for seconds, *_ in found], 1)
    context, messages = torch.multiprocessing.get_context("spawn"), out.with_suffix(".messages")
    processes = [context.Process(target=_first_rank, args=(29533, str(messages), rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    small, large = json.loads(messages.read_text())
    messages.unlink()
    jitter = statistics.median(spread for _, spread, _ in found)
    constants = Constants(
        float(max(whole - adam * number, 1e-6)), float(datum), adam, small / 2, 4e6 / (large - small), jitter, number
    )
    out.write_text(json.dumps(asdict(constants), indent=2) + "\n")
    print(f"{constants}, load {os.getloadavg()[0]:.1f}")


def rows(constants: Constants) -> list[dict[str, object]]:
    """Return what is simulated: the data a second of each cluster, number of ranks and size of a batch."""
    clusters = {"two cores, gloo": constants}
    clusters |= {name: replace(constants, **numbers) for name, numbers in CLUSTERS.items()}
    generator, found = np.random.default_rng(0), []
    for name, each in clusters.items():
        for batch_size in (100, 1000, 10_000, 100_000):
            alone = batch_size / each.step(1, batch_size, generator)
            for size in SIZES:
                if size > batch_size:
                    continue
                rate = batch_size / each.step(size, batch_size, generator)
                found.append({
                    "cluster": name, "batch": batch_size, "ranks": size, "data_a_second": round(rate),
                    "speedup": round(rate / alone, 3), "all_reduce_share": round(
                        each.all_reduce(size) / (batch_size / rate), 3),
                })  # fmt: skip
    return found


def draw(found: list[dict[str, object]], path: Path) -> None:
    """Draw the speed-up over the number of ranks."""
    from matplotlib.figure import Figure  # the benchmark runs without it

    names = list(dict.fromkeys(row["cluster"] for row in found))
    figure = Figure((4 * len(names), 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for marker, batch_size in zip("osD^", (100, 1000, 10_000, 100_000), strict=True):
            own = [row for row in found if (row["cluster"], row["batch"]) == (name, batch_size)]
            axis.plot(
                [row["ranks"] for row in own],
                [row["speedup"] for row in own],
                marker=marker,
                label=f"B = {batch_size:,}",
            )
        axis.plot(SIZES, SIZES, color="0.7", linestyle="--", label="ideal")
        axis.set(title=name, xlabel="ranks", xscale="log", yscale="log", ylim=(0.05, 600))
    figure.axes[0].set_ylabel("speed-up over one rank, same batch")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("constants", type=Path, nargs="?", help="what --measure wrote")
    parser.add_argument("--measure", type=Path, help="measure the constants of this machine, and write them here")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    if arguments.constants is None:
        parser.error("constants: found none, expected the file that --measure wrote")
    found = rows(Constants(**json.loads(arguments.constants.read_text())))
    with arguments.csv.open("w", newline="") if arguments.csv else os.fdopen(os.dup(1), "w") as out:
        writer = csv.DictWriter(out, fieldnames=list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    if arguments.picture:
        draw(found, arguments.picture)


if __name__ == "__main__":
    sys.exit(main())
