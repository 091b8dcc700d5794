"""The training step that ``fit`` repeats, as a contestant that takes its batches from a tensor; see peers.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from timing import Unsupported, as_fit_does
from torch import Tensor

from pyro_vae import ELBO
from pyro_vae.data import Split
from pyro_vae.data.conversion import as_batches
from pyro_vae.runtime.precision import Precision
from pyro_vae.training.compiled_update import make_update
from pyro_vae.training.modules import as_module
from pyro_vae.training.run_schedule import RunSchedule
from pyro_vae.training.run_state import RunState
from pyro_vae.training.step import CompiledStep, EagerStep
from pyro_vae.training.update import Pick, in_blocks


class PackagedStep:
    """A contestant that runs the training steps of ``fit`` without its loop, on a tensor or a split."""

    def __init__(
        self,
        make: Callable[[], Any],
        data: Tensor | Split,
        batch_size: int,
        compile: bool,
        objective: Any = None,
        precision: Precision = "highest",
    ) -> None:
        program = make().to(data.device).train()
        pair = as_module((program.model, program.guide))
        objective = ELBO() if objective is None else objective
        step = (CompiledStep if compile else EagerStep)(program.model, program.guide, pair, objective)
        self.device, self.num_data, self.batch_size, self.precision = data.device, len(data), batch_size, precision
        self.batches = as_batches(data, batch_size, device=data.device, dtype=torch.float32, shuffle=True)
        optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
        self.state = RunState(pair, optimizer, None, data.device)
        self.update = make_update(self.state, self.batches, step, None, [], lambda line: None)
        self.schedule, self.picks = RunSchedule(optimizer), self.whole_batches()

    def whole_batches(self) -> Iterator[Pick]:
        while True:
            yield from islice(self.batches.picks(), self.num_data // self.batch_size)

    def round(self, steps: int) -> list[float]:
        """Take so many steps; return the mean loss of each block of them, once a step, in nats per image."""
        losses: list[Tensor] = []
        with as_fit_does(self.device, self.precision), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the (training step|update) is not")
            for picks in in_blocks(islice(self.picks, steps), self.batch_size, lambda: self.update.longest):
                before = self.state.bounds[0].clone()
                num_data = self.update(picks, self.schedule)
                losses += [(before - self.state.bounds[0]) / num_data] * len(picks)
        if self.update.reasons():
            raise Unsupported("; ".join(self.update.reasons()))
        return torch.stack(losses).tolist()  # waits for a GPU
