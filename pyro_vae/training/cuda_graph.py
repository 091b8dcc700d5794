"""Capture an update of the weights as a CUDA graph, and replay it.

A small model keeps a GPU busy for some microseconds a kernel, less than Python takes to launch one. So the kernels of
one whole update, from the rows of the batch to the new weights, are captured once (Gray, *Getting Started with CUDA
Graphs*, 2019) and replayed at each step. The learning rate, the weights of annealing and the rows are tensors that the
graph reads anew.

All that the graph was made from is compared before each replay; and its first replay is compared with the update that
it stands for, on the same draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pyro_vae.compilation.compiled import Snapshot
from pyro_vae.data.batch import Batch
from pyro_vae.training.step import Check, CompiledStep, Update

__all__ = ["Capture", "ReplayedUpdate", "cuda_graph", "make_update"]

Capture = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], object], Tensor]]  # see cuda_graph

_NUM_WARM_UP = 3  # updates before one is captured: libraries and the optimiser allocate at the first ones
_MOST_CAPTURES = 8
_TOLERANCE = 1e-2  # of how far an update moves a tensor


def cuda_graph(function: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
    """Capture the kernels of a function without running them; return what replays them, and where the result lies."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),  # to come back to where the next line fails
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        result = function()
    return graph.replay, result


class ReplayedUpdate:
    """An update of whole batches, captured once and replayed; any other batch is updated with as it is.

    ``update`` is of one resident tensor, with a compiled step and a fused optimiser; ``module`` holds the modules that
    it trains, ``num_data`` is the size of a whole batch, and ``capture`` captures the kernels of a function.
    """

    def __init__(self, update: Update, module: nn.Module, num_data: int, capture: Capture | None = None) -> None:
        self.update, self.module, self.num_data, self.capture = update, module, num_data, capture or cuda_graph
        self.num_captures = 0
        self.reason: str | None = None  # why it is not captured, once that is known
        self._num_updates = 0  # since the step was last found changed
        self._captured_from: Any = None
        self._replay: Callable[[], object] | None = None

    def __call__(self, pick: Batch | slice, check: Check | None = None) -> tuple[Tensor, int]:
        """Update as :class:`Update` does; a replay's bounds are overwritten by the next one."""
        whole = isinstance(pick, Tensor) and len(pick) == self.num_data
        if not whole or check is not None or self.reason is not None or _has_hooks(self.update.optimizer):
            return self._uncaptured(pick, check)
        assert isinstance(pick, Tensor) and isinstance(self.update.gradient_step, CompiledStep)
        if self._num_updates < _NUM_WARM_UP:
            self._num_updates += 1
            return self._uncaptured(pick)
        if not self.update.gradient_step.is_current():
            self._num_updates = 1  # of the updates that it takes to be compiled and warm again
            return self._uncaptured(pick)
        if self._captured_from != self._fingerprint():
            return self._update_and_capture(pick)
        self._replay_with(pick)
        return self._bounds, self.num_data

    @property
    def global_term(self) -> Tensor | None:
        """What global latents added to the bound of each datum in the last step."""
        return self.update.global_term

    def _uncaptured(self, pick: Batch | slice, check: Check | None = None) -> tuple[Tensor, int]:
        """Update at rates rounded to float32, as the graph has them: so a run that is resumed is the same."""
        with self._using([float(np.float32(rate)) for rate in self._rates()], capturable=False):
            return self.update(pick, check)

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.update.optimizer.param_groups]

    @contextmanager
    def _using(self, rates: Sequence[float | Tensor], capturable: bool) -> Iterator[None]:
        groups, given = self.update.optimizer.param_groups, self._rates()
        try:
            for group, rate in zip(groups, rates, strict=True):
                group.update(lr=rate, capturable=capturable)
            yield
        finally:
            for group, rate in zip(groups, given, strict=True):
                group.update(lr=rate, capturable=False)

    def _tensors(self) -> list[Tensor]:
        """Return all that it moves or reads, but for the data."""
        assert isinstance(self.update.gradient_step, CompiledStep)
        slots = (value for values in self.update.optimizer.state.values() for value in values.values())
        tensors = [*self.module.parameters(), *self.module.buffers(), *self.update.gradient_step.tensors()]
        tensors += [slot for slot in slots if isinstance(slot, Tensor)]
        return list({id(tensor): tensor for tensor in tensors}.values())

    def _fingerprint(self) -> tuple[Any, ...]:
        """Return which kernels, where tensors lie, and all settings but the rates, which the graph reads anew."""
        assert isinstance(self.update.gradient_step, CompiledStep)
        settings = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            | {"ids": list(map(id, group["params"]))}
            for group in self.update.optimizer.param_groups
        ]
        places = [tensor.data_ptr() for tensor in self._tensors()]
        return (
            self.update.gradient_step.gradients.version,
            places,
            settings,
            self.update.clip_norm,
            self.update.batches.form,
        )

    def _update_and_capture(self, rows: Tensor) -> tuple[Tensor, int]:
        """Update, and capture that; the update stands, whatever becomes of the capture."""
        tensors, device = self._tensors(), rows.device
        if self.num_captures == _MOST_CAPTURES:
            self._give_up(f"captured {_MOST_CAPTURES} times, it changed again")
        elif any(tensor.device != device for tensor in tensors):
            self._give_up("it reads a tensor that is elsewhere")
        if self.reason is not None:
            return self._uncaptured(rows)
        before = Snapshot(tensors, device)
        result = self._uncaptured(rows)
        if len(self._tensors()) != len(tensors):  # the optimiser made slots, which the next update will find
            return result
        after = Snapshot(tensors, device)
        try:
            before.restore()
            bounds, _ = self._uncaptured(rows)
            rerun = [*Snapshot(tensors, device).values, bounds.clone()]
            self._capture(rows)
            before.restore()
            self._replay_with(rows)
            start = [*before.values, torch.zeros_like(bounds)]
            _compare(start, [*after.values, result[0]], rerun, [*tensors, self._bounds])
            self._captured_from = self._fingerprint()
            self.num_captures += 1
        except Exception as error:  # all that a driver finds it cannot capture
            self._give_up(_first_of(error))
            self.module.zero_grad()  # gradients may lie in memory that was never written
        finally:
            after.restore()
        return result

    def _give_up(self, reason: str) -> None:
        self.reason, self._replay = reason, None
        warnings.warn(f"the update is not captured as a CUDA graph: {reason}", UserWarning, stacklevel=4)

    def _capture(self, rows: Tensor) -> None:
        self._replay = self._captured_from = None  # frees the memory of the graph before
        self._rows, self._read_rates = rows.clone(), self._rates()
        self._rate_tensors = [torch.tensor(rate, dtype=torch.float32, device=rows.device) for rate in self._read_rates]
        with self._using(self._rate_tensors, capturable=True):
            self._replay, self._bounds = self.capture(lambda: self.update(self._rows)[0], rows.device)

    def _replay_with(self, rows: Tensor) -> None:
        self._rows.copy_(rows)
        rates = self._rates()
        for tensor, rate, read in zip(self._rate_tensors, rates, self._read_rates, strict=True):
            if rate != read:
                tensor.fill_(rate)
        self._read_rates = rates
        assert self._replay is not None
        self._replay()


def make_update(update: Update, module: nn.Module, num_data: int | None) -> Update | ReplayedUpdate:
    """Return the update, replayed where it can be: on CUDA, of a resident tensor, compiled, with torch's fused Adam."""
    optimizer = update.optimizer
    fused = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and all(
        group["fused"] and not group["capturable"] and not isinstance(group["lr"], Tensor)
        for group in optimizer.param_groups
    )
    on_cuda = all(tensor.is_cuda for tensor in (*module.parameters(), *module.buffers()))
    compiled = isinstance(update.gradient_step, CompiledStep)
    if num_data is None or not (on_cuda and compiled and fused and update.batches.form is not None):
        return update
    return ReplayedUpdate(update, module, num_data)


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether Python of somebody else runs before or after the optimiser's step."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _compare(before: list[Tensor], expected: list[Tensor], rerun: list[Tensor], found: list[Tensor]) -> None:
    """Raise ``RuntimeError`` unless a replay moved every tensor as the update did, but for rounding.

    Kernels that add up in any order differ from run to run, which the ``rerun`` of the update shows.
    """
    for start, target, other, value in zip(before, expected, rerun, found, strict=True):
        if torch.equal(value, target):
            continue
        finite = target.isfinite()
        if not torch.equal(value.isfinite(), finite):
            raise RuntimeError("its replay is finite elsewhere")
        start, target, other, value = (torch.where(finite, t, 0).double() for t in (start, target, other, value))
        rounding = 4 * torch.finfo(torch.float32).eps * target.norm()
        if (value - target).norm() > _TOLERANCE * (target - start).norm() + 4 * (other - target).norm() + rounding:
            raise RuntimeError("its replay came out different")


def _first_of(error: BaseException) -> str:
    """Return the error that the others came of, in one line: after it a driver says only that there was one."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]
