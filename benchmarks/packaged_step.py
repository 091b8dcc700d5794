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
from pyro_vae.data.conversion import as_batches
from pyro_vae.training.checkpoint import as_module
from pyro_vae.training.cuda_graph import make_update
from pyro_vae.training.step import CompiledStep, EagerStep, Update


class PackagedStep:
    """A contestant that runs the training step of ``fit`` without its loop."""

    def __init__(
        self, make: Callable[[], Any], data: Tensor, batch_size: int, compile: bool, objective: Any = None
    ) -> None:
        program = make().to(data.device).train()
        pair = as_module((program.model, program.guide))
        objective = ELBO() if objective is None else objective
        gradient_step = (CompiledStep if compile else EagerStep)(program.model, program.guide, pair, objective)
        if isinstance(gradient_step, CompiledStep):
            with as_fit_does(data.device), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                gradient_step(data[:batch_size])
            if gradient_step.gradients.reason is not None:
                raise Unsupported(f"it is not compiled: {gradient_step.gradients.reason}")
        self.device, self.num_data, self.batch_size = data.device, len(data), batch_size
        self.batches = as_batches(data, batch_size, device=data.device, dtype=data.dtype, shuffle=True)
        optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
        self.update = make_update(Update(self.batches, gradient_step, optimizer, None), pair, batch_size)
        self.picks = self.whole_batches()

    def whole_batches(self) -> Iterator[Tensor | slice]:
        while True:
            yield from islice(self.batches.picks(), self.num_data // self.batch_size)

    def round(self, steps: int) -> list[float]:
        """Take so many steps; return the loss of each, in nats per image."""
        losses = []
        with as_fit_does(self.device):
            for _ in range(steps):
                bounds, num_data = self.update(next(self.picks))
                losses.append(-bounds[0] / num_data)
        return torch.stack(losses).tolist()  # waits for a GPU
