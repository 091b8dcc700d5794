"""Random edits of every file that is read, and what becomes of each.

    python -m tests.training.fuzz_files 10000 --seed 0

A file may be refused in a documented way, or loaded; nothing else: no other exception, no crash, no wait over five
seconds, no tensor over twice the honest ones. Edits are of bytes, of JSON and of tensors; in many of them the checksum
is computed anew, so that they come to what lies behind it. A run that takes up an edited state trains to its end, since
memory that is written past its end shows there.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.training.fuzz_edits import edit
from tests.training.fuzz_runs import NAMES, RUNS, Honest, honest, read, write

SHARES = {"weights": 25, "program": 25, "state": 35, "metrics": 2, "config": 13}
OUTCOMES = ("loaded equal", "loaded other", "ValueError", "OSError", "FloatingPointError", "other exception",
            "over 5 s", "allocation", "crash")  # fmt: skip
WRONG = OUTCOMES[5:]
SPARE = 5 << 20  # bytes beside twice the honest tensors: those of BoundedAllocation, and the batches of a run


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that was allocated."""

    num_bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                self.num_bytes = max(self.num_bytes, value.untyped_storage().nbytes())
        return result


def outcome(rng: random.Random, file: str, folder: Path, known: Honest) -> tuple[str, str]:
    """Edit one file of a run, read it, and say what came of it."""
    run = rng.choice(list(RUNS)) if file == "state" else "adam"
    files = dict(known.files[run])
    try:
        files[NAMES[file]] = edit(rng, file, files[NAMES[file]], folder / "scratch")
    except (RecursionError, RuntimeError, ValueError, OverflowError):  # an edit that cannot be written down is none
        return outcome(rng, file, folder, known)
    if rng.random() < 0.02:
        del files[NAMES[file]]
    if file == "weights" and rng.random() < 0.5:  # the text beside the weights is read where it is not contradicted
        files["program.json"] = known.files[run]["program.json"]
    write(folder / "edited", files)
    verify = file not in ("weights", "program") or rng.random() < 0.5
    largest = 2 * sum(tensor.nbytes for tensor in known.loaded.values()) + SPARE
    started, detail = time.perf_counter(), ""
    try:
        with Largest() as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = "loaded equal" if read(file, run, folder / "edited", known, verify) else "loaded other"
    except (ValueError, OSError, FloatingPointError) as error:
        kinds: tuple[type[Exception], ...] = (OSError, FloatingPointError, ValueError)
        found, detail = next(kind.__name__ for kind in kinds if isinstance(error, kind)), str(error)
    except Exception as error:
        found, detail = "other exception", f"{type(error).__name__}: {error}"
    if time.perf_counter() - started > 5:
        found = "over 5 s"
    if seen.num_bytes > largest:
        found, detail = "allocation", f"{seen.num_bytes} bytes"
    return found, detail


def work(count: int, seed: int, tell: Callable[[str, str, str], None]) -> None:
    """Make so many edits, each from its own seed, and tell of each."""
    with TemporaryDirectory() as name:
        known = honest(Path(name))
        (Path(name) / "edited").mkdir()
        for index in range(seed, seed + count):
            signal.alarm(60)  # ends the process
            rng = random.Random(index)
            file = rng.choices(list(SHARES), list(SHARES.values()))[0]
            tell(file, *outcome(rng, file, Path(name), known))
        signal.alarm(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="edits (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.worker:
        work(args.count, args.seed, lambda *told: print(json.dumps(told), flush=True))
        return print(json.dumps(["", "peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])) or 0
    table: Counter[tuple[str, str]] = Counter()
    done, peak, started = 0, 0, time.perf_counter()
    while done < args.count:  # a crash ends the worker, and the next one goes on behind the edit that it was
        command = [
            sys.executable,
            "-m",
            "tests.training.fuzz_files",
            str(args.count - done),
            "--seed",
            str(args.seed + done),
        ]
        process = subprocess.Popen([*command, "--worker"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            file, found, detail = json.loads(line)
            if found == "peak":
                peak = max(peak, detail)
                continue
            table[file, found] += 1
            if found in WRONG:
                print(f"seed {args.seed + done}: {file}: {found}: {detail[:300]}")
            done += 1
        if process.wait() != 0:
            table["any", "over 5 s" if process.returncode == -signal.SIGALRM else "crash"] += 1
            print(f"seed {args.seed + done}: the process ended with {process.returncode}")
            done += 1
    files = [file for file in (*SHARES, "any") if any(table[file, found] for found in OUTCOMES)]
    print(f"\n{'':20}" + "".join(f"{file:>10}" for file in (*files, "all")))
    for found in OUTCOMES:
        counts = [table[file, found] for file in files]
        print(f"{found:20}" + "".join(f"{count:10d}" for count in (*counts, sum(counts))))
    print(f"\n{done} edits in {time.perf_counter() - started:.0f} s; memory at most {peak / 1024:.0f} MiB")
    return int(any(table[file, found] for file in files for found in WRONG))


if __name__ == "__main__":
    sys.exit(main())
