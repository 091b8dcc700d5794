"""Run the tests and benchmarks of a GPU, each within a time limit, and say which targets are met: ``make gpu``.

    python benchmarks/gpu.py                                       # random pixels; four minutes
    python benchmarks/gpu.py --data-root DATA --out figures.json   # MNIST; the figures as JSON too
    python benchmarks/gpu.py --only "fit, first run" tests         # some of the parts
    python benchmarks/gpu.py --device cpu --quick                  # a trial of this script at toy sizes, in a minute

It uses the Python that runs it and what is installed there, and the package from this source tree. It needs torch, Pyro
and their requirements, and pytest for the tests; a peer that is missing is left out. No network is needed. Each part is
a process of its own, one after the other, and the most important come first:

step             one training step at batch sizes 100, 256 and 1024, beside NumPyro's
fit, first run   60 epochs of MNIST from a fresh process, with no compiled code on disk: the whole command
fit, second run  the same with the compiled code on disk, then the bare step of the same data in the same process
likelihood       10,000 images x 5,000 particles in one call, then 1,000 x 1,000 beside NumPyro's RenyiELBO
tests            the tests marked ``gpu``
step, float32    the step at batch size 100 beside NumPyro's in float32, which takes XLA half a minute to compile

What exceeds its limit, or the total that is left, is stopped and reported as not measured, and the rest goes on. JAX
multiplies in TF32 unless told otherwise and pyro_vae in float32, so both ways are shown. The status is 0 if all targets
of the parts that ran are met. A trial, at toy sizes or on a CPU, is not held to the targets; its status is 0 if no part
had a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240  # in all


class Part(NamedTuple):
    """A process: its name, its limit in seconds, which compiled code it finds on disk, its arguments."""

    name: str
    seconds: int
    cache: str
    arguments: tuple[str, ...]


PARTS = (
    Part("step", 90, "step", ("step",)),
    Part("fit, first run", 45, "fit", ("fit",)),
    Part("fit, second run", 40, "fit", ("fit", "--bare")),
    Part("likelihood", 60, "likelihood", ("likelihood",)),
    Part("tests", 75, "tests", ()),
    Part("step, float32", 75, "step", ("step", "--exact")),
)


class Target(NamedTuple):
    """The most that a figure may be, and what the figure is."""

    figure: str
    most: float
    what: str


TARGETS = (
    Target("step: TF32 over NumPyro", 0.5, "step, B = 100, over NumPyro's fori_loop, TF32 in both"),
    Target("step: float32 over NumPyro", 0.5, "step, B = 100, over NumPyro's fori_loop, ours in float32, its in TF32"),
    Target("step, float32: float32 over NumPyro", 0.5, "step, B = 100, over NumPyro's fori_loop, float32 in both"),
    Target("fit, second run: over its bare step", 1.1, "fit, a warm epoch over as many bare steps"),
    Target("fit, first run: seconds", 25, "60 epochs of MNIST, whole command with nothing on disk, s"),
    Target("fit, first run: not compiled once", 0, "functions of fit that were not compiled exactly once"),
    Target("likelihood: TF32 over NumPyro", 0.5, "likelihood over NumPyro's RenyiELBO, TF32 in both"),
    Target("likelihood: float32 over NumPyro", 0.5, "likelihood over NumPyro's, ours in float32, its in TF32"),
    Target("likelihood: first call", 3, "10,000 images x 5,000 particles, nothing on disk, s"),
    Target("likelihood: second call", 3, "10,000 images x 5,000 particles, compiled code on disk, s"),
    Target("tests: failed", 0, "gpu tests that failed"),
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds MNIST; random pixels without it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART", help="these parts")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of all parts together (default: {SECONDS})")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try this script; no figure means anything")
    parser.add_argument("--out", metavar="FILE", help="write all figures there as JSON")
    return parser.parse_args(argv)


def met(target: Target, figures: Mapping[str, Any]) -> bool:
    """Return whether a target is met; what was not measured, or is no number, is not."""
    figure = figures.get(target.figure)
    return figure is not None and math.isfinite(figure) and figure <= target.most


def judge(figures: Mapping[str, Any], targets: Sequence[Target] = TARGETS, is_trial: bool = False) -> list[str]:
    """Return a line for each target: whether it is met, the figure and the target; a trial meets none."""
    lines = []
    for target in targets:
        figure = figures.get(target.figure)
        found = "not measured" if figure is None else f"{figure:.3g}"
        word = "met" if met(target, figures) else "NOT MET"
        word = "not measured" if figure is None else "trial" if is_trial else word
        lines.append(f"{word:12}  {target.what}: {found}, target ≤ {target.most:g}")
    return lines


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> str | None:
    """Run a process within a limit; return what went wrong, ``None`` for nothing. None of its children is left."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(seconds)
        return None if status == 0 else f"it ended with status {status}"
    except subprocess.TimeoutExpired:
        return f"not measured: over its limit of {seconds:.3g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tests_command(report: Path, quick: bool) -> list[str]:
    """Return the command that runs the gpu tests, in several processes and with a limit a test where pytest can."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-p", "no:cacheprovider", "-W", "default",
               "-m", "gpu", "--tb", "short", "--junitxml", str(report)]  # fmt: skip
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(8, max((os.cpu_count() or 1) // 2, 1))), "--dist", "worksteal"]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", "60"]
    return [*command, "tests/training/test_cuda_graph.py" if quick else "tests"]


def count_tests(report: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped; without one that ran, nothing was measured."""
    if not report.is_file():
        return {}
    suites = list(ElementTree.parse(report).iter("testsuite"))
    total, bad, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return {"passed": total - bad - skipped, "failed": bad, "skipped": skipped} if total > skipped else {}


def environment(folder: Path, part: Part) -> dict[str, str]:
    """Return that of a part: the package of this tree, and compiled code in a folder of its own."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / part.cache / "inductor"),
              "TRITON_CACHE_DIR": str(folder / part.cache / "triton")}  # fmt: skip
    # of several processes, each of which would start as many compilers as there are cores
    of_tests = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"} if part.name == "tests" else {}
    return {**os.environ, **caches, **of_tests, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # fmt: skip


def measure(part: Part, folder: Path, left: float, args: argparse.Namespace) -> dict[str, Any]:
    """Run a part; return its figures, with its seconds, or what went wrong."""
    limit = min(part.seconds, left)
    if limit < 5:
        return {"problem": f"not measured: {max(left, 0):.0f} s left of {args.seconds:.0f}"}
    report, since = folder / f"{part.name}.out", time.time()
    if part.name == "tests":
        command = tests_command(report, args.quick)
    else:
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu_parts.py"), *part.arguments, "--device", args.device,
                   "--figures", str(report), "--since", str(since)]  # fmt: skip
        command += ["--data-root", args.data_root] * bool(args.data_root) + ["--quick"] * args.quick
    problem = run(command, limit, environment(folder, part))
    seconds = time.time() - since
    if part.name == "tests":
        figures: dict[str, Any] = count_tests(report)
        print(", ".join(f"{number} {name}" for name, number in figures.items()) or "no test ran")
    else:
        figures = json.loads(report.read_text()) if report.is_file() else {}
    return figures | ({"seconds": seconds} if problem is None else {"problem": problem})


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    started = time.monotonic()
    figures: dict[str, Any] = {}
    parts = [part for part in PARTS if part.name in (args.only or part.name)]
    targets = [target for target in TARGETS if target.figure.partition(": ")[0] in {part.name for part in parts}]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            print(f"\n== {part.name} (at most {part.seconds} s)", flush=True)
            found = measure(part, Path(folder), args.seconds - (time.monotonic() - started), args)
            print(found.get("problem") or f"{part.name}: {found['seconds']:.1f} s", flush=True)
            figures |= {f"{part.name}: {name}": value for name, value in found.items()}
            if args.out:
                Path(args.out).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"\n== targets, after {time.monotonic() - started:.0f} s in all", flush=True)
    is_trial = args.quick or args.device != "cuda"  # toy sizes, or another device than the targets are for
    print("\n".join(judge(figures, targets, is_trial)))
    if is_trial:
        return int(any(name.endswith(": problem") for name in figures))
    return 0 if all(met(target, figures) for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
