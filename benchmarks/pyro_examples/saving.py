"""Programs written to a folder and read back into others: the same values, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from program import Program, started
from pyro.infer import SVI, Trace_ELBO
from result import Maker, Result, Settings, optimizer
from torch import Tensor
from weights import evaluating, weigh

import pyro_vae

__all__ = ["checkpoint", "saved"]


def _values(program: Program) -> list[Tensor]:
    with evaluating(program):
        pyro.set_rng_seed(3)
        return [value for call in program.calls for value in weigh(program, call)]


def saved(make: Maker, is_changed: bool, settings: Settings) -> Result:
    """Save a pair, load it into one with other weights: log weights of the same draws are the same, bit for bit."""
    return _restored(make, is_changed, lambda program, folder: pyro_vae.save((program.model, program.guide), folder))


def checkpoint(make: Maker, is_changed: bool, settings: Settings) -> Result:
    """The same of the checkpoint that fit writes."""

    def write(program: Program, folder: Path) -> None:
        pyro_vae.fit(
            program.model, program.guide, program.data, num_epochs=1, checkpoint=folder,
            batch_size=program.batch_size, lr=program.rate, seed=0, progress=False,
        )  # fmt: skip

    return _restored(make, is_changed, write)


def _restored(make: Maker, is_changed: bool, write: Callable[[Program, Path], None]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        first = started(make, 0, is_changed)
        trained = SVI(first.model, first.guide, optimizer(first), loss=Trace_ELBO())
        for call in first.calls:
            call(trained.step)
        write(first, Path(folder))
        expected = _values(first)
        second = started(make, 1, is_changed)
        if all(map(torch.equal, _values(second), expected)):
            return Result(False, "another seed gives the same values, nothing is tested", "no test")
        pyro_vae.load(folder, (second.model, second.guide))
        same = all(map(torch.equal, _values(second), expected))
    return Result(
        same, "the same bits" if same else "other values after loading", "same bits" if same else "other bits"
    )
