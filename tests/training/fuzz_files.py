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
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import pyro_vae
from pyro_vae.runtime.digests import digest_of_data
from pyro_vae.runtime.tensor_files import read_tensors, write_tensors
from pyro_vae.training.run_state import RunState
from tests.support.programs import bits, same, vae, weights

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import train_vae

SHARES = {"weights": 25, "program": 25, "state": 35, "metrics": 2, "config": 13}
OUTCOMES = ("loaded equal", "loaded other", "ValueError", "OSError", "FloatingPointError", "other exception",
            "over 5 s", "allocation", "crash")  # fmt: skip
WRONG = OUTCOMES[5:]
SPARE = 5 << 20  # bytes beside twice the honest tensors: those of BoundedAllocation, and the batches of a run
DEEP = 3000

RUNS: dict[str, dict[str, Any]] = {
    "adam": {},
    "momentum": {
        "optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
        "scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    },
    "amsgrad": {
        "optimizer": lambda p, lr: torch.optim.AdamW(p, lr=lr, amsgrad=True),
        "scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    },
}


class Splits(NamedTuple):
    """As much of a data set as the script needs to build a program."""

    data_shape: tuple[int, ...]
    train: Any


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


def train(run: str, folder: Path, resume: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    program = vae()
    options = {"num_epochs": 3, "batch_size": 6, "lr": 0.01, "seed": 0, "progress": False, "compile": False}
    data = bits(12)
    pyro_vae.fit(
        program.model, program.guide, data, **options, **RUNS[run], checkpoint=folder, resume=resume, valid=data
    )
    return weights(program)


class Honest(NamedTuple):
    """The files of runs that nobody edited: the content of each folder, and what the run ends with."""

    files: dict[str, dict[str, bytes]]
    ends: dict[str, dict[str, torch.Tensor]]
    loaded: dict[str, torch.Tensor]
    config: dict[str, Any]


def stopping(count_step: Callable[..., None], folder: Path) -> Callable[..., None]:
    """Count steps, and in the middle of the second epoch write the state and stop."""
    taken = []

    def count(state: RunState, *args: Any) -> None:
        count_step(state, *args)
        taken.append(1)
        if len(taken) == 3:
            state.write(folder)
            raise KeyboardInterrupt

    return count


def honest(folder: Path) -> Honest:
    files, ends = {}, {}
    for run in RUNS:
        stop = mock.patch.object(RunState, "count_step", stopping(RunState.count_step, folder / run))
        with stop, suppress(KeyboardInterrupt):
            train(run, folder / run)
        files[run] = {path.name: path.read_bytes() for path in (folder / run).iterdir()}
        config, _ = train_vae.configure(train_vae.parse(["--hidden-dims", "5", "--out", str(folder / "new")]))
        files[run]["config.json"] = json.dumps(config).encode()
        ends[run] = train(run, folder / run, resume=True)
        write(folder / run, files[run])
    loaded = weights(pyro_vae.load(folder / "adam"))
    return Honest(files, ends, loaded, train_vae.read_config(folder / "adam", "RUN"))


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def nasty(rng: random.Random) -> Any:
    deep: Any = 1
    if rng.random() < 0.1:
        for _ in range(DEEP):
            deep = [deep]
        return deep
    part = {"class": rng.choice(["MLP", "Flow", "VAE", "StandardNormal", "os.system"]), "arguments": {}}
    part["arguments"] = rng.choice([{}, {"latent_dim": 10**9}, {"transforms": "spline", "latent_dim": 10**6},
                                    {"transforms": "planar", "latent_dim": 2, "num_transforms": 10**6}])  # fmt: skip
    return rng.choice([None, True, False, 0, 1, -1, 2, -5, 10**6, 10**9, 2**63, 10**400, 0.5, -0.5, 1e-320, 1e308,
                       float("nan"), float("inf"), "", "x", "x" * 5000, "\x00", "os.system", "tanh", "iwae", [], {},
                       [1] * 10**4, [10**9, 10**9], [[]], [-1], {"": 0}, {"same_as": ["posterior"]},
                       {"items": [[1, 2]]}, {"items": 3}, part])  # fmt: skip


def nodes(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if len(path) < 30:
        for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
            found += nodes(data[key], (*path, key))
    return found


def edited_data(rng: random.Random, data: Any) -> Any:
    """One to three values of JSON data replaced, removed, moved, renamed or added."""
    data = json.loads(json.dumps(data))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = nodes(data)
        if not places:
            return nasty(rng)
        *above, key = rng.choice(places)
        parent = data
        for step in above:
            parent = parent[step]
        kind = rng.choice(["replace", "replace", "replace", "nudge", "remove", "swap", "rename", "add", "repeat"])
        if kind == "nudge" and type(parent[key]) in (int, float):
            parent[key] = rng.choice(
                [parent[key] + 1, -parent[key], parent[key] * 2, parent[key] / 3, str(parent[key])]
            )
        elif kind == "remove":
            del parent[key]
        elif kind == "swap":
            other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[key], parent[other] = parent[other], parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[rng.choice(["write", "__class__", "self", "", "x", str(key).upper()])] = parent.pop(key)
        elif kind == "add" and isinstance(parent, dict):
            parent[rng.choice(["write", "step", "__class__", "self", "", "forward"])] = nasty(rng)
        elif kind == "repeat" and isinstance(parent, list):
            parent.append(parent[key])
        else:
            parent[key] = nasty(rng)
    return data


def edited_bytes(rng: random.Random, content: bytes) -> bytes:
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        where = rng.randrange(len(content) + 1)
        kind = rng.choice(["flip", "flip", "cut", "insert", "remove", "zero"])
        if kind == "flip" and where < len(content):
            content[where] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del content[where:]
        elif kind == "insert":
            content[where:where] = rng.randbytes(rng.choice([1, 8, 100]))
        elif kind == "remove":
            del content[where : where + rng.choice([1, 8, 100])]
        else:
            content[where : where + 8] = bytes(8)
    return bytes(content)


def edited_header(rng: random.Random, content: bytes) -> bytes:
    """The header of a safetensors file edited as JSON, and its length made right."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(edited_data(rng, json.loads(content[8 : 8 + size]))).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def edited_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    if rng.random() < 0.5 and (slots := [each for each in sorted(tensors) if each.startswith("optimizer")]):
        name = rng.choice(slots)
    tensor = tensors[name]
    kind = rng.choice(["shape", "shape", "dtype", "dtype", "drop", "rename", "add", "values", "swap"])
    if kind == "shape":
        shapes = [(), (1,), (0,), (tensor.numel(),), (*tensor.shape, 1), tensor.shape[:-1], tensor.shape[::-1],
                  (1000,), (3, *tensor.shape)]  # fmt: skip
        tensors[name] = torch.ones(rng.choice(shapes), dtype=tensor.dtype)
    elif kind == "dtype":
        tensors[name] = tensor.to(rng.choice([torch.uint8, torch.int64, torch.bool, torch.float64, torch.float16,
                                              torch.bfloat16, torch.complex64, torch.float8_e4m3fn]))  # fmt: skip
    elif kind == "drop":
        del tensors[name]
    elif kind == "rename":
        names = [
            "x",
            "optimizer.99.exp_avg",
            "optimizer.x.step",
            "optimizer.0.new",
            "generator.x",
            "program.x",
            name * 2,
        ]
        tensors[rng.choice(names)] = tensors.pop(name)
    elif kind == "add":
        tensors[rng.choice(["optimizer.0.new", "optimizer.00.step", "x", "generator.cuda"])] = torch.ones(3)
    elif kind == "swap":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif tensor.dtype == torch.uint8:
        tensors[name] = torch.tensor(list(rng.randbytes(tensor.numel())), dtype=torch.uint8).reshape(tensor.shape)
    else:
        value = rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")] if tensor.is_floating_point() else [0, -1])
        tensors[name] = torch.full_like(tensor, value)
    return tensors


def edit(rng: random.Random, file: str, content: bytes, scratch: Path) -> bytes:
    """An edit of a file, by its kind."""
    if file in ("weights", "state"):
        kind = rng.choice(["bytes", "header", "tensors", "tensors", "text", "text"])
        if kind == "bytes":
            return edited_bytes(rng, content)
        if kind == "header":
            return edited_header(rng, content)
        scratch.write_bytes(content)
        tensors, text = read_tensors(scratch)
        if kind == "tensors":
            tensors = edited_tensors(rng, tensors)
        else:
            key = "run" if file == "state" else "recipe"
            text = {key: json.dumps(edited_data(rng, json.loads(text[key])))}
        if rng.random() < 0.2:  # as files were before they had checksums
            save_file(tensors, scratch, text)
        else:
            write_tensors(scratch, tensors, text)
        return scratch.read_bytes()
    if rng.random() < 0.25 or file == "metrics":
        return edited_bytes(rng, content)
    data = edited_data(rng, json.loads(content))
    if file == "program" and isinstance(data, dict) and rng.random() < 0.7:
        if rng.random() < 0.5:
            data.pop("sha256", None)
        elif "recipe" in data:
            data["sha256"] = digest_of_data(data["recipe"])
    return json.dumps(data).encode()


NAMES = {"weights": "checkpoint.safetensors", "program": "program.json", "state": "last.safetensors",
         "metrics": "metrics.jsonl", "config": "config.json"}  # fmt: skip


def read(file: str, run: str, folder: Path, known: Honest, verify: bool) -> bool:
    """Read the file as the package does; whether what it gives is what the honest one gives."""
    if file == "state":
        return same(train(run, folder, resume=True), known.ends[run])
    if file == "config":
        config = train_vae.read_config(folder, "RUN")
        train_vae.build(config, Splits((4, 4), mock.Mock(mean=lambda: torch.full((4, 4), 0.5))), folder)
        return config == known.config
    loaded = pyro_vae.load(folder, verify=verify)
    return isinstance(loaded, pyro_vae.VAE) and same(weights(loaded), known.loaded)


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
