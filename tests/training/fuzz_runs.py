"""Runs that nobody edited, the files that they leave, and what is read from files that were edited."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

import pyro_vae
from pyro_vae.commands.options import parse
from pyro_vae.commands.runs import build
from pyro_vae.commands.settings import configure, read_config
from pyro_vae.training.run_state import RunState
from tests.support.programs import bits, same, vae, weights

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


def stopping(count_steps: Callable[..., None], folder: Path) -> Callable[..., None]:
    """Count steps, and in the middle of the second epoch write the state and stop."""
    taken = []

    def count(state: RunState, *args: Any) -> None:
        count_steps(state, *args)
        taken.append(1)
        if len(taken) == 3:
            state.write(folder)
            raise KeyboardInterrupt

    return count


def honest(folder: Path) -> Honest:
    files, ends = {}, {}
    for run in RUNS:
        stop = mock.patch.object(RunState, "count_steps", stopping(RunState.count_steps, folder / run))
        with stop, suppress(KeyboardInterrupt):
            train(run, folder / run)
        files[run] = {path.name: path.read_bytes() for path in (folder / run).iterdir()}
        config, _ = configure(parse(["--hidden-dims", "5", "--out", str(folder / "new")]))
        files[run]["config.json"] = json.dumps(config).encode()
        ends[run] = train(run, folder / run, resume=True)
        write(folder / run, files[run])
    loaded = weights(pyro_vae.load(folder / "adam"))
    return Honest(files, ends, loaded, read_config(folder / "adam", "RUN"))


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


NAMES = {"weights": "checkpoint.safetensors", "program": "program.json", "state": "last.safetensors",
         "metrics": "metrics.jsonl", "config": "config.json"}  # fmt: skip


def read(file: str, run: str, folder: Path, known: Honest, verify: bool) -> bool:
    """Read the file as the package does; whether what it gives is what the honest one gives."""
    if file == "state":
        return same(train(run, folder, resume=True), known.ends[run])
    if file == "config":
        config = read_config(folder, "RUN")
        build(config, Splits((4, 4), mock.Mock(mean=lambda: torch.full((4, 4), 0.5))), folder)
        return config == known.config
    loaded = pyro_vae.load(folder, verify=verify)
    return isinstance(loaded, pyro_vae.VAE) and same(weights(loaded), known.loaded)
