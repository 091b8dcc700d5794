"""Measure time and memory of an importance-sampled log p(x), here and in other packages.

    python benchmarks/likelihood.py                                # random bits; two minutes on two cores
    python benchmarks/likelihood.py --data-root DATA --memory      # MNIST, and the peak memory too

The unit is one particle of one datum: a draw from the guide, the network 50-200-200-784, and three densities. All score
the same images with the same number of particles of one VAE 784-200-200-50, whose weights are copied. In each round
each scores once, in turn, in one process; the table holds medians over rounds. Compilation ends before the first round
that counts. The means of log p(x), which are random, must agree within 1 nat. The VAE was trained on these images for
100 steps.

pyro_vae runs what ``log_likelihood`` runs, its kernels on chunks of 100 particles of 50 data and the streaming
statistics; that function itself compiles anew at each call. Pyro's RenyiELBO(alpha=0) and NumPyro's hold all particles
of a datum at once, and are given so few data that they hold as many weights; NumPyro goes over such parts within one
compiled call. Pyro's loop over particles runs on all the data at once, Pythae's ``get_nll`` on 100 particles of one
datum, as they are written.

--memory asks for the peak resident memory of ``log_likelihood`` on 1,000 images, each time in a process of its own, by
50 particles a chunk and compiled.
"""

from __future__ import annotations

import argparse
import functools
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import peers
import peers_numpyro
import torch
from pyro.infer import RenyiELBO
from timing import as_fit_does, machine, present, ratio, rounds, table
from torch import Tensor

import pyro_vae
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.evaluation.streaming import StreamingWeights
from pyro_vae.runtime.modules import owners

CHUNK_SIZE, BATCH_SIZE = 100, 50  # those of log_likelihood
LARGEST_DIFFERENCE = 1.0  # nats


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds MNIST; random bits without it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--num-particles", type=int, default=1000, help="K, a multiple of 100 (default: 1000)")
    parser.add_argument("--num-data", type=int, default=50, help="images, a multiple of 50 (default: 50)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default: 9)")
    parser.add_argument("--memory", type=int, nargs="*", metavar="K",
                        help="peak memory with these numbers of particles (default: 50 5000)")  # fmt: skip
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)  # one process of --memory
    args = parser.parse_args(argv)
    for name, unit in (("num_particles", CHUNK_SIZE), ("num_data", BATCH_SIZE), ("rounds", 1)):
        if getattr(args, name) < 1 or getattr(args, name) % unit:
            parser.error(
                f"argument --{name.replace('_', '-')}: found {getattr(args, name)}, expected a multiple of {unit}"
            )
    return args


def images(data_root: str | None, num_data: int) -> Tensor:
    if data_root is not None:
        return pyro_vae.data.load("mnist", root=data_root).test[:num_data]
    return torch.randint(2, (num_data, 28, 28), generator=torch.Generator().manual_seed(0)).float()


def network() -> pyro_vae.VAE:
    return pyro_vae.VAE((28, 28), 50, (200, 200)).eval()


def packaged(vae: pyro_vae.VAE, x: Tensor, num_particles: int, compile: bool) -> Callable[[], float]:
    """Return the part of ``log_likelihood`` that runs once it has compiled."""

    def weigh(batch: Tensor) -> list[Tensor]:
        return [pyro_vae.log_weights(vae.model, vae.guide, batch, CHUNK_SIZE)]

    chunks = Compiled(weigh, (*owners(vae.model), *owners(vae.guide)), name="likelihood")

    @torch.no_grad()
    def run() -> float:
        means = []
        with as_fit_does(x.device):
            for batch in x.split(BATCH_SIZE):
                weights = StreamingWeights(num_particles)
                whole = functools.partial(chunks if compile else weigh, batch)
                for _ in range(num_particles // CHUNK_SIZE):
                    (log_w,) = whole()
                    weights.update(log_w)
                means.append(weights.log_mean().mean())
                weights.std_error(), weights.ess(), weights.khat()
        return torch.stack(means).mean().item()

    return run


def pyro_renyi(vae: pyro_vae.VAE, x: Tensor, num_particles: int, rows: int, vectorised: bool) -> Callable[[], float]:
    """Return Pyro's own estimate, taken of ``rows`` data at once."""
    elbo = RenyiELBO(alpha=0, num_particles=num_particles, vectorize_particles=vectorised, max_plate_nesting=1)
    return lambda: -sum(elbo.loss(vae.model, vae.guide, part) for part in x.split(rows)) / len(x)


def pythae_nll(vae: pyro_vae.VAE, x: Tensor, num_particles: int) -> Callable[[], float]:
    model = peers.pythae_vae(vae.posterior.network, vae.likelihood.network, vae.prior.latent_dim)
    return lambda: float(torch.no_grad()(model.get_nll)(x, num_particles, CHUNK_SIZE))


def makers(vae: pyro_vae.VAE, x: Tensor, k: int) -> dict[str, Callable[[], Callable[[], float]]]:
    rows = max(CHUNK_SIZE * BATCH_SIZE // k, 1)  # as many weights at once as pyro_vae
    while len(x) % rows:
        rows -= 1
    return {
        "pyro_vae, compiled": lambda: packaged(vae, x, k, True),
        "pyro_vae, eager": lambda: packaged(vae, x, k, False),
        "Pyro RenyiELBO, vectorised": lambda: pyro_renyi(vae, x, k, rows, True),
        "Pyro RenyiELBO, its loop": lambda: pyro_renyi(vae, x, k, BATCH_SIZE, False),
        "NumPyro RenyiELBO": lambda: peers_numpyro.numpyro_log_likelihood(vae, x, k, rows),
        "Pythae get_nll": lambda: pythae_nll(vae, x, k),
    }


def compare(vae: pyro_vae.VAE, x: Tensor, num_particles: int, num_rounds: int) -> bool:
    """Print the table; return whether the estimates agree."""
    contestants = present(makers(vae, x, num_particles))
    estimates: dict[str, list[float]] = {name: [] for name in contestants}
    seconds = rounds({name: lambda n=name: estimates[n].append(contestants[n]()) for name in contestants}, num_rounds)
    reference = next(iter(contestants))
    rows = []
    for name in contestants:
        unit = median(seconds[name]) / (len(x) * num_particles)
        rows.append([name, f"{1e6 * unit:.3f}", f"{ratio(seconds, name, reference):.2f}",
                     f"{median(estimates[name]):.2f}"])  # fmt: skip
    table(["", "µs a particle of a datum", f"time / {reference}", "log p(x)"], rows)
    medians = [median(values) for values in estimates.values()]
    agree = max(medians) - min(medians) < LARGEST_DIFFERENCE
    print(f"estimates {'agree' if agree else 'DIFFER'}; {num_rounds} rounds\n", flush=True)
    return agree


def peak_kib() -> int:
    """Return the peak resident memory of this process, in KiB.

    Linux starts ``ru_maxrss`` at the size of the parent process, so it is read from ``/proc`` there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**10 if sys.platform == "darwin" else 1)


def peak(data_root: str | None, num_particles: int) -> None:
    """Print the peak memory in MiB of this process before and after it has scored 1,000 images."""
    vae, x = network(), images(data_root, 1000)
    kib = [peak_kib()]
    pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles, chunk_size=50, compile=True, seed=0)
    kib.append(peak_kib())
    print(*(f"{value / 2**10:.0f}" for value in kib))


def memory(data_root: str | None, particles: Sequence[int]) -> None:
    rows = []
    for k in particles:
        command = [sys.executable, __file__, "--peak-of", str(k)]
        command += ["--data-root", data_root] if data_root else []
        before, after = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        rows.append([f"{k:,}", before, after])
    print("peak resident memory of log_likelihood on 1,000 images, in a process of its own")
    table(["particles", "MiB before it", "MiB after it"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device(args.device)
    torch.manual_seed(0)
    try:
        if args.peak_of:
            peak(args.data_root, args.peak_of)
            return 0
        x = images(args.data_root, args.num_data).to(device)
    except (ValueError, OSError, ImportError) as error:
        print(f"likelihood.py: {error}", file=sys.stderr)
        return 2
    vae = network().to(device)
    pyro_vae.fit(vae.model, vae.guide, x, num_epochs=100, batch_size=BATCH_SIZE, progress=False)
    vae.eval()
    print(f"{machine(device)}; {args.num_data} images of {'MNIST' if args.data_root else 'random bits'}, "
          f"K = {args.num_particles}\n")  # fmt: skip
    agree = compare(vae, x, args.num_particles, args.rounds)
    if args.memory is not None:
        memory(args.data_root, args.memory or [50, 5000])
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
