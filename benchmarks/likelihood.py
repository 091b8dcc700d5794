"""Measure time and memory of an importance-sampled log p(x), here and in other packages.

    python benchmarks/likelihood.py                                # random bits; two minutes on two cores
    python benchmarks/likelihood.py --data-root DATA --memory      # MNIST, and the peak memory too
    python benchmarks/likelihood.py --device cuda                  # a GPU, and a whole call of log_likelihood

The unit is one particle of one datum: a draw from the guide, the network 50-200-200-784, and three densities. All score
the same images with the same number of particles of one VAE 784-200-200-50, whose weights are copied. In each round
each scores once, in turn, in one process; the table holds medians over rounds. Compilation ends before the first round
that counts. The means of log p(x), which are random, must agree within 1 nat. The VAE was trained on these images for
100 steps.

pyro_vae runs what ``log_likelihood`` runs, its kernels on chunks of the sizes that it chooses and the streaming
statistics; that function itself compiles anew at each call. Pyro's RenyiELBO(alpha=0) and NumPyro's hold all particles
of a datum at once, and are given so few data that they hold as many weights; NumPyro goes over such parts within one
compiled call. Pyro's loop over particles runs on all the data at once, Pythae's ``get_nll`` on 100 particles of one
datum, as they are written.

On a GPU the two loops are left out, and products are compared at two precisions: in full float32, and in TF32, which
JAX takes there unless told otherwise and pyro_vae as ``precision="high"``. Then ``log_likelihood`` itself scores 10,000
images with 5,000 particles.

--memory asks for its peak resident memory on 1,000 images, compiled, by 50 particles a chunk, in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import peers
import peers_numpyro
import pyro
import torch
from pyro.infer import RenyiELBO
from timing import machine, present, ratio, rounds, table
from torch import Tensor

import pyro_vae
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.evaluation.chunks import batch_size_for, chunk_size_for, most_draws
from pyro_vae.evaluation.streaming import StreamingWeights
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.modules import owners
from pyro_vae.runtime.precision import Precision, precise

LOOP_SIZE = 100  # particles of a datum in Pythae, data of a particle in Pyro's loop
LARGEST_DIFFERENCE = 1.0  # nats


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds MNIST; random bits without it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--num-particles", type=int, default=1000, help="K, a multiple of 100 (default: 1000)")
    parser.add_argument("--num-data", type=int, help="images (default: 50, on a GPU 1000)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default: 9)")
    parser.add_argument("--memory", type=int, nargs="*", metavar="K", help="peak memory for these (default: 50 5000)")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)  # one process of --memory
    args = parser.parse_args(argv)
    args.num_data = args.num_data or (50 if args.device == "cpu" else 1000)
    for name, unit in (("num_particles", LOOP_SIZE), ("num_data", 1), ("rounds", 1)):
        if (found := getattr(args, name)) < 1 or found % unit:
            parser.error(f"argument --{name.replace('_', '-')}: found {found}, expected a multiple of {unit}")
    return args


def images(data_root: str | None, num_data: int) -> Tensor:
    if data_root is not None:
        return pyro_vae.data.load("mnist", root=data_root).test[:num_data]
    return torch.randint(2, (num_data, 28, 28), generator=torch.Generator().manual_seed(0)).float()


def network() -> pyro_vae.VAE:
    return pyro_vae.VAE((28, 28), 50, (200, 200)).eval()


def sizes(vae: pyro_vae.VAE, x: Tensor, num_particles: int) -> tuple[int, int]:
    """Return the numbers of particles and of data that ``log_likelihood`` draws at once."""
    batch_size = batch_size_for(x, num_particles, x.device)
    most = most_draws(ProgramPair(vae.model, vae.guide, 1, "auto").isolated(), x[:batch_size])
    return chunk_size_for(num_particles, batch_size, most), batch_size


def packaged(
    vae: pyro_vae.VAE, x: Tensor, num_particles: int, compile: bool, precision: Precision = "highest"
) -> Callable[[], float]:
    """Return the part of ``log_likelihood`` that runs once it has compiled."""
    chunk_size, batch_size = sizes(vae, x, num_particles)

    def weigh(batch: Tensor, size: int) -> list[Tensor]:
        return [pyro_vae.log_weights(vae.model, vae.guide, batch, size)]

    whole = functools.partial(weigh, size=chunk_size)
    chunks = Compiled(whole, (*owners(vae.model), *owners(vae.guide)), name="likelihood") if compile else whole
    num_whole, rest = divmod(num_particles, chunk_size)

    @torch.no_grad()
    def run() -> float:
        means = []
        with pyro.validation_enabled(False), precise(precision, x.device):
            for batch in x.split(batch_size):
                weights = StreamingWeights(num_particles)
                for _ in range(num_whole):
                    weights.update(chunks(batch)[0])
                if rest:
                    weights.update(weigh(batch, rest)[0])
                means.append(weights.log_mean().sum())
                weights.std_error(), weights.ess(), weights.khat()
        return torch.stack(means).sum().item() / len(x)

    return run


def whole_call(vae: pyro_vae.VAE, x: Tensor, num_particles: int, precision: Precision = "highest") -> float:
    """Return the seconds of one call of ``log_likelihood``, which compiles if it finds that worth it."""
    started = time.perf_counter()
    pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles, precision=precision, seed=0).mean()
    return time.perf_counter() - started


def pyro_renyi(vae: pyro_vae.VAE, x: Tensor, num_particles: int, rows: int, vectorised: bool) -> Callable[[], float]:
    """Return Pyro's own estimate, taken of ``rows`` data at once."""
    elbo = RenyiELBO(alpha=0, num_particles=num_particles, vectorize_particles=vectorised, max_plate_nesting=1)
    return lambda: -sum(elbo.loss(vae.model, vae.guide, part) for part in x.split(rows)) / len(x)


def pythae_nll(vae: pyro_vae.VAE, x: Tensor, num_particles: int) -> Callable[[], float]:
    nll = peers.pythae_vae(vae.posterior.network, vae.likelihood.network, vae.prior.latent_dim).get_nll
    return lambda: float(torch.no_grad()(nll)(x, num_particles, LOOP_SIZE))


def numpyro(vae: pyro_vae.VAE, x: Tensor, k: int, rows: int, precision: str | None) -> Callable[[], float]:
    """Return NumPyro's estimate at a precision of its products; ``None`` is JAX's own."""
    run = peers_numpyro.numpyro_log_likelihood(vae, x, k, rows)
    import jax

    return lambda: jax.default_matmul_precision(precision)(run)()


def makers(vae: pyro_vae.VAE, x: Tensor, k: int) -> dict[str, Callable[[], Callable[[], float]]]:
    chunk_size, batch_size = sizes(vae, x, k)
    rows = min(max(chunk_size * batch_size // k, 1), len(x))  # as many weights at once as pyro_vae
    while len(x) % rows:
        rows -= 1
    found = {
        "pyro_vae, compiled": lambda: packaged(vae, x, k, True),
        "pyro_vae, eager": lambda: packaged(vae, x, k, False),
        "Pyro RenyiELBO, vectorised": lambda: pyro_renyi(vae, x, k, rows, True),
        "NumPyro RenyiELBO": lambda: numpyro(vae, x, k, rows, None),
    }
    if x.device.type == "cpu":
        return found | {
            "Pyro RenyiELBO, its loop": lambda: pyro_renyi(vae, x, k, LOOP_SIZE, False),
            "Pythae get_nll": lambda: pythae_nll(vae, x, k),
        }
    return found | {
        "NumPyro RenyiELBO, highest": lambda: numpyro(vae, x, k, rows, "highest"),
        "pyro_vae, compiled, high": lambda: packaged(vae, x, k, True, "high"),
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
    epochs = max(5000 // len(x), 1)  # 100 steps
    pyro_vae.fit(vae.model, vae.guide, x, num_epochs=epochs, batch_size=min(50, len(x)), progress=False)
    vae.eval()
    data = "MNIST" if args.data_root else "random bits"
    print(f"{machine(device)}; {args.num_data} images of {data}, K = {args.num_particles}\n")
    agree = compare(vae, x, args.num_particles, args.rounds)
    if device.type == "cuda":
        x = images(args.data_root, 10_000).to(device)
        for precision in ("highest", "high"):
            print(
                f"log_likelihood, 10,000 x 5,000, precision={precision!r}: {whole_call(vae, x, 5000, precision):.2f} s"
            )
    if args.memory is not None:
        memory(args.data_root, args.memory or [50, 5000])
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
