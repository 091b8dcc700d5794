"""The runs that are killed: their variants, one run of each, and one that nothing interrupts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae.data.loading import Split
from pyro_vae.schedules import Linear
from pyro_vae.training.checkpoint import write_tensors
from tests.endurance import folders, processes

NUM_DATA, BATCH_SIZE, NUM_EPOCHS, PATIENCE = 200, 20, 24, 2
STOPPED = 3  # the exit status of a run that a signal stopped cleanly

Factory = Callable[[], dict[str, Any]]  # the options of fit by which a variant differs, made anew for each run


def falling(done: float) -> float:
    return 0.05 * (1 - done)


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)


def milestones(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 9], gamma=0.5)


def digits(num_data: int = NUM_DATA) -> Split:
    """Some digits, whose bits are drawn anew at each use."""
    train = pyro_vae.data.load("digits").train
    return Split(train.values[:num_data], levels=train.levels, binarize="dynamic")


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(digits(), BATCH_SIZE, shuffle=True, num_workers=2, **options)


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


VARIANTS: dict[str, Factory] = {
    "eager-tensor": lambda: {"data": digits(1000), "lr": falling},
    "eager-loader": lambda: {"data": loader(), "lr": 0.05, "scheduler": plateau, "clip_norm": 5.0},
    "eager-own-generator": lambda: {"data": loader(generator=own_generator()), "lr": falling},
    "compiled-tensor": lambda: {"data": digits(1000), "lr": 0.05, "scheduler": milestones, "compile": True},
    "compiled-loader": lambda: {"data": loader(), "lr": falling, "compile": True},
}


def train(variant: str, folder: Path, weights: Path | None = None) -> int:
    """Train in a folder, going on with the run that is there, and return an exit status."""
    resume = (folder / folders.STATE).exists()
    torch.manual_seed(7 + resume)  # a resumed run must replace the weights that it is given
    vae = pyro_vae.VAE((8, 8), 5, (32,))
    model, guide = pyro_vae.anneal_kl(vae.model, vae.guide, Linear(3 * NUM_DATA // BATCH_SIZE))
    options: dict[str, Any] = {"compile": False} | VARIANTS[variant]()
    valid = pyro_vae.data.load("digits").valid
    history = pyro_vae.fit(
        model, guide, options.pop("data"), valid=valid, num_epochs=NUM_EPOCHS, batch_size=BATCH_SIZE,
        patience=PATIENCE, seed=0, checkpoint=folder, resume=resume, progress=False, **options,
    )  # fmt: skip
    if history.interrupted:
        return STOPPED
    if weights is not None:
        write_tensors(weights, vae.state_dict())
    return 0


@dataclass
class Reference:
    """The uninterrupted run: its folder, its last weights, and how long the parts of its life took, in seconds."""

    folder: Path
    weights: Path
    before: float  # until the first file
    after: float  # from there to its end


def refer(variant: str, scratch: Path) -> Reference:
    """Run a variant without interruption, twice, to see that it is one and the same."""
    train(variant, scratch / "warm")  # imports and compiles in this process what the children then have
    references = []
    for name in ("first", "second"):
        folder, weights = scratch / name, scratch / f"{name}.safetensors"
        began = time.monotonic()
        pid = processes.start(lambda f=folder, w=weights: train(variant, f, w), scratch / "log")
        while not (folder / folders.STATE).exists():
            if processes.status(pid) is not None:
                raise RuntimeError((scratch / "log").read_text())
            time.sleep(0.0005)
        first = time.monotonic()
        if processes.ended(pid):
            raise RuntimeError((scratch / "log").read_text())
        references.append(Reference(folder, weights, first - began, time.monotonic() - first))
    differs = folders.difference(references[0].folder, references[1].folder)
    if differs is not None:
        raise RuntimeError(f"{variant}: two uninterrupted runs differ in {differs}")
    return references[1]
