"""The parts of gpu.py that measure time, each run by it as a process of its own.

All figures go to a JSON file as they come, so that a part that is stopped leaves those that it had.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import likelihood
import peers_numpyro
import torch
from measured_steps import measure, show
from packaged_step import PackagedStep
from timing import machine, peak_memory, present, product_rate, ratio, rounds, table
from training_step import HIDDEN_DIMS, LATENT_DIM, images

import pyro_vae
from pyro_vae import VAE
from pyro_vae.data import Split

MAKE = functools.partial(VAE, (28, 28), LATENT_DIM, HIDDEN_DIMS)


class Figures(dict[str, Any]):
    """Named figures, written to a file whenever one is added."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def __setitem__(self, name: str, figure: Any) -> None:
        super().__setitem__(name, figure)
        self.path.write_text(json.dumps(self), encoding="utf-8")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["step", "fit", "likelihood"])
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--figures", required=True, help="the JSON file")
    parser.add_argument("--since", type=float, default=time.time(), help="when the process was started, in s")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds MNIST; random pixels without it")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--exact", action="store_true", help="step: NumPyro in float32, at batch size 100 alone")
    parser.add_argument("--bare", action="store_true", help="fit: the bare step too")
    return parser.parse_args(argv)


def step(args: argparse.Namespace, figures: Figures) -> None:
    """Time a step beside NumPyro's ``fori_loop``, for each batch size."""
    data, _ = images(args.data_root, args.device)
    print(f"{machine(args.device)}; a float32 product of 2048 x 2048 matrices runs at "
          f"{product_rate(args.device) / 1e9:,.0f} GFLOP/s", flush=True)  # fmt: skip
    num_rounds, steps = (2, 10) if args.quick else (7, 1000)  # one number of steps: NumPyro compiles for it
    products, precision = ("float32", "highest") if args.exact else ("TF32", None)
    for batch_size in (100,) if args.exact or args.quick else (100, 256, 1024):
        sizes = (data, batch_size, HIDDEN_DIMS, LATENT_DIM)
        numpyro = functools.partial(peers_numpyro.NumPyro, *sizes, precision=precision)
        packaged = functools.partial(PackagedStep, MAKE, data, batch_size, True)
        makers: dict[str, Callable[[], Any]] = {f"NumPyro, {products}": numpyro}
        if not args.exact:
            makers["pyro_vae, TF32"] = functools.partial(packaged, precision="high")
        makers["pyro_vae, float32"] = functools.partial(packaged, precision="highest")
        print(f"\nVAE 784-400-50, batch size {batch_size}", flush=True)
        measured = measure(makers, args.device, num_rounds, steps, 0)
        agree = show(measured, batch_size)
        at = "" if batch_size == 100 else f", B = {batch_size}"  # the target is at 100
        figures[f"losses agree{at}"] = agree
        for name, seconds in measured.seconds.items():
            figures[f"{name}{at}, µs"] = 1e6 * median(seconds) / steps
            if name in measured.memory:
                figures[f"{name}{at}, MiB of a step, MiB held"] = measured.memory[name]
            if agree and name.startswith("pyro_vae") and f"NumPyro, {products}" in measured.seconds:
                value = ratio(measured.seconds, name, f"NumPyro, {products}")
                figures[f"{name.removeprefix('pyro_vae, ')} over NumPyro{at}"] = value


def training_images(args: argparse.Namespace) -> Split:
    """Return MNIST, or random bytes of its shape, binarised anew at each use."""
    if args.data_root is not None:
        split = pyro_vae.data.load("mnist", root=args.data_root).train
    else:
        values = torch.randint(256, (50_000, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        split = Split(values, levels=255, binarize="dynamic")
    return Split(split.values[:1000], levels=split.levels, binarize=split.binarize) if args.quick else split


def not_compiled_once(printed: str, fallback: str | None) -> int:
    """Return how many functions were not compiled exactly once, by what ``fit`` printed; a fallback counts as one."""
    counts = Counter(re.findall(r"compiled the (.+?) in [\d.]+ s", printed))
    return sum(number != 1 for number in counts.values()) + (fallback is not None or not counts)


def fit(args: argparse.Namespace, figures: Figures) -> None:
    """Train for 60 epochs; with ``--bare``, time the bare step on the same data after it."""
    source, printed, ends = training_images(args), io.StringIO(), []
    num_epochs, vae = 4 if args.quick else 60, MAKE()
    try:
        with contextlib.redirect_stderr(printed):  # the bar, and what was compiled
            history = pyro_vae.fit(
                vae.model, vae.guide, source, num_epochs=num_epochs, batch_size=100, compile=True, device=args.device,
                seed=0, callbacks=[lambda record: ends.append(time.time() - args.since)],
            )  # fmt: skip
    finally:
        print("\n".join(re.findall(r"compiled the .+? s\b|.*[Ww]arning.*", printed.getvalue())), flush=True)
    warm = min(10, num_epochs - 2)  # the first epochs may still compile or capture
    epoch = (ends[-1] - ends[warm - 1]) / (num_epochs - warm)
    figures["epoch, ms"], figures["to the first step, s"] = 1e3 * epoch, ends[0] - epoch
    figures["fallback"], figures["bound"] = history.fallback, history.records[-1]["train_bound"]
    figures["not compiled once"] = not_compiled_once(printed.getvalue(), history.fallback)
    print(f"{num_epochs} epochs of {len(source)} images, bound {figures['bound']:.2f}: to the first step "
          f"{ends[0] - epoch:.1f} s, to the last {ends[-1]:.1f} s, a warm epoch {1e3 * epoch:.1f} ms; "
          f"fallback: {history.fallback}", flush=True)  # fmt: skip
    if args.device.type == "cuda":
        figures["peak, MiB"] = torch.cuda.max_memory_allocated(args.device) / 2**20
        print(f"peak memory, data included, {figures['peak, MiB']:.0f} MiB", flush=True)
    if not args.bare:
        return
    bare, steps, times = PackagedStep(MAKE, source.to(args.device), 100, True), len(source) // 100, []
    for _ in range(7):
        started = time.perf_counter()
        bare.round(steps)
        times.append(time.perf_counter() - started)
    bare_epoch = median(times[2:])
    figures["bare, ms"], figures["over its bare step"] = 1e3 * bare_epoch, epoch / bare_epoch
    print(f"{steps} bare steps on the same data {1e3 * bare_epoch:.1f} ms; fit over them {epoch / bare_epoch:.3f}")


def likelihood_part(args: argparse.Namespace, figures: Figures) -> None:
    """Score many images in one call, then time the estimate beside NumPyro's."""
    num_images, particles = (200, 200) if args.quick else (10_000, 5_000)
    n, k = (100, 100) if args.quick else (1_000, 1_000)
    whole = likelihood.images(args.data_root, num_images)
    x, vae = whole[:n].to(args.device), likelihood.network().to(args.device)
    pyro_vae.fit(vae.model, vae.guide, x, num_epochs=10, batch_size=100, compile=False, progress=False, seed=0)
    vae.eval()
    print(machine(args.device), flush=True)

    def score() -> Any:
        return pyro_vae.log_likelihood(vae.model, vae.guide, whole, particles, seed=0)

    for call, disk in (("first call", "nothing"), ("second call", "compiled code")):
        started = time.perf_counter()
        memory = peak_memory(score, args.device) if args.device.type == "cuda" else score() and 0.0
        figures[call] = time.perf_counter() - started
        figures[f"{call}, peak MiB"] = memory
        print(f"log_likelihood of {num_images:,} x {particles:,}, {disk} on disk: {figures[call]:.2f} s, "
              f"peak {memory:.0f} MiB", flush=True)  # fmt: skip

    makers: dict[str, Callable[[], Callable[[], float]]] = {
        f"NumPyro RenyiELBO, TF32, {rows} images at once": functools.partial(
            peers_numpyro.numpyro_log_likelihood, vae, x, k, rows
        )
        for rows in (50, 250)
        if n % rows == 0
    }
    makers["pyro_vae, TF32"] = lambda: likelihood.packaged(vae, x, k, True, precision="high")
    makers["pyro_vae, float32"] = lambda: likelihood.packaged(vae, x, k, True, precision="highest")
    contestants = present(makers)
    values: dict[str, float] = {}

    def run(name: str) -> None:
        values[name] = contestants[name]()

    seconds = rounds({name: functools.partial(run, name) for name in contestants}, 2 if args.quick else 7)
    numpyro = min((name for name in seconds if name.startswith("NumPyro")), key=lambda name: median(seconds[name]),
                  default="pyro_vae, float32")  # fmt: skip
    rows = [[name, f"{1e6 * median(times) / (n * k):.4f}", f"{ratio(seconds, name, numpyro):.2f}",
             f"{values[name]:.2f}"] for name, times in seconds.items()]  # fmt: skip
    print(f"\n{n:,} images, K = {k:,}")
    table(["", "µs a particle of a datum", f"time / {numpyro}", "log p(x)"], rows)
    agree = max(values.values()) - min(values.values()) < likelihood.LARGEST_DIFFERENCE
    print(f"estimates {'agree' if agree else 'DIFFER'}")
    figures["estimates agree"] = agree
    for name, times in seconds.items():
        figures[f"{name}, µs"] = 1e6 * median(times) / (n * k)
        if agree and name.startswith("pyro_vae") and numpyro.startswith("NumPyro"):
            figures[f"{name.removeprefix('pyro_vae, ')} over NumPyro"] = ratio(seconds, name, numpyro)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.device.type == "cuda" and not torch.cuda.is_available():
        print("gpu_parts.py: found no CUDA device", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    parts = {"step": step, "fit": fit, "likelihood": likelihood_part}
    parts[args.part](args, Figures(args.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
