"""An update of the weights on a GPU, recorded once and replayed.

A small model keeps a GPU busy for some microseconds a kernel, less than Python takes to launch one.
:class:`ReplayedUpdate` has the GPU launch them: the kernels of one whole update, from the rows of the batch to the new
weights, are recorded once as a CUDA graph (Gray, *Getting Started with CUDA Graphs*, 2019) and replayed at each step.
The learning rate, the weights of annealing and the rows are tensors that it reads anew each time.

A graph cannot tell that what it was made from has changed, so all of it is compared before each replay; and what it
does is held once against the update that it stands for, on the same draws.
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

from pyro_vae.runtime.state import generators, set_generators
from pyro_vae.training.step import CompiledStep
from pyro_vae.training.updates import Check, Update

__all__ = ["Record", "ReplayedUpdate", "cuda_graph", "make_update"]

Record = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], object], Tensor]]  # see cuda_graph

_NUM_WARM_UP = 3  # updates before one is recorded: libraries and the optimiser allocate at the first ones
_MOST_RECORDINGS = 8
_TOLERANCE = 1e-2  # of how far an update moves a tensor


def cuda_graph(function: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
    """Record the kernels of a function without running them: what replays them, and the memory of the result."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),  # to come back to where the next line fails
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        result = function()
    return graph.replay, result


class ReplayedUpdate:
    """An update of whole batches recorded once and replayed; others, and while it cannot be, as it is.

    Parameters
    ----------
    update
        Of resident data, with a compiled step and a fused optimiser.
    pair
        The modules that it trains.
    num_data
        The size of a whole batch.
    record
        What records the kernels of a function.
    """

    def __init__(self, update: Update, pair: nn.Module, num_data: int, record: Record | None = None) -> None:
        self.update, self.pair, self.num_data, self.record = update, pair, num_data, record or cuda_graph
        self.num_recorded = 0
        self.reason: str | None = None  # why it is not recorded, once that is known
        self._num_updates = 0  # since the update was last found changed
        self._fixed: Any = None  # what the recording takes for granted
        self._replay: Callable[[], object] | None = None

    def __call__(self, pick: Tensor | slice, check: Check | None = None) -> tuple[Tensor, int]:
        """As :class:`Update`; a replay's bounds are overwritten by the next one."""
        whole = isinstance(pick, Tensor) and len(pick) == self.num_data
        if not whole or check is not None or self.reason is not None or _has_hooks(self.update.optimizer):
            return self._as_it_is(pick, check)
        assert isinstance(pick, Tensor)
        if self._num_updates < _NUM_WARM_UP or not self._can_be_recorded():
            self._num_updates += 1
            return self._as_it_is(pick)
        if self._fixed != self._now():
            return self._recorded(pick)
        self._replayed(pick)
        return self._bounds, self.num_data

    def _as_it_is(self, pick: Tensor | slice, check: Check | None = None) -> tuple[Tensor, int]:
        """The update at rates rounded to float32, as the recording has them: so a run that is resumed is the same."""
        with self._rates_of([float(np.float32(rate)) for rate in self._given_rates()], capturable=False):
            return self.update(pick, check)

    def _given_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.update.optimizer.param_groups]

    @contextmanager
    def _rates_of(self, rates: Sequence[float | Tensor], capturable: bool) -> Iterator[None]:
        groups = self.update.optimizer.param_groups
        given = self._given_rates()
        try:
            for group, rate in zip(groups, rates, strict=True):
                group.update(lr=rate, capturable=capturable)
            yield
        finally:
            for group, rate in zip(groups, given, strict=True):
                group.update(lr=rate, capturable=False)

    def _can_be_recorded(self) -> bool:
        """Whether the step is still the compiled one; if not, it takes its time to become that again."""
        take = self.update.take
        same = isinstance(take, CompiledStep) and take.is_current()
        if not same:
            self._num_updates = 0
        return same

    def _tensors(self) -> list[Tensor]:
        """All that it moves or reads, but for the data."""
        assert isinstance(self.update.take, CompiledStep)
        slots = (value for values in self.update.optimizer.state.values() for value in values.values())
        tensors = [*self.pair.parameters(), *self.pair.buffers(), *self.update.take.tensors()]
        tensors += [slot for slot in slots if isinstance(slot, Tensor)]
        return list({id(tensor): tensor for tensor in tensors}.values())

    def _now(self) -> tuple[Any, ...]:
        """Which kernels, where tensors lie, and all settings but the rates, which the recording reads anew."""
        assert isinstance(self.update.take, CompiledStep)
        settings = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            | {"ids": list(map(id, group["params"]))}
            for group in self.update.optimizer.param_groups
        ]
        places = [tensor.data_ptr() for tensor in self._tensors()]
        return self.update.take.gradients.version, places, settings, self.update.clip_norm, self.update.batches.form

    def _recorded(self, rows: Tensor) -> tuple[Tensor, int]:
        """Update, and record that; the update stands, whatever becomes of the recording."""
        tensors, device = self._tensors(), rows.device
        before, drawn = _copies(tensors), generators(device)
        result = self._as_it_is(rows)
        if len(self._tensors()) != len(tensors):  # the optimiser made slots, which the next update will find
            return result
        after, drawn_after = _copies(tensors), generators(device)

        def again() -> None:
            _put(before, tensors)
            set_generators(drawn, device)

        try:
            if self.num_recorded == _MOST_RECORDINGS:
                raise RuntimeError(f"recorded {_MOST_RECORDINGS} times, it changed again")
            if any(tensor.device != device for tensor in tensors):
                raise RuntimeError("it reads a tensor that is elsewhere")
            again()
            bounds, _ = self._as_it_is(rows)
            spread = [*_copies(tensors), bounds.clone()]
            self._record(rows)
            again()
            self._replayed(rows)
            zeros = torch.zeros_like(bounds)
            _check([*before, zeros], [*after, result[0]], spread, [*tensors, self._bounds])
            self._fixed = self._now()
            self.num_recorded += 1
        except Exception as error:  # all that a driver finds it cannot record
            self.reason = _first_of(error)
            self._replay = None
            self.pair.zero_grad()  # gradients may lie in memory that was never written
        finally:
            _put(after, tensors)
            set_generators(drawn_after, device)
        if self.reason is not None:
            warnings.warn(f"the update is not recorded as a CUDA graph: {self.reason}", UserWarning, stacklevel=3)
        return result

    def _record(self, rows: Tensor) -> None:
        self._replay = self._fixed = None  # the memory of the recording before
        self._rows, self._read_rates = rows.clone(), self._given_rates()
        self._rates = [torch.tensor(rate, dtype=torch.float32, device=rows.device) for rate in self._read_rates]
        with self._rates_of(self._rates, capturable=True):
            self._replay, self._bounds = self.record(lambda: self.update(self._rows)[0], rows.device)

    def _replayed(self, rows: Tensor) -> None:
        self._rows.copy_(rows)
        rates = self._given_rates()
        for tensor, rate, read in zip(self._rates, rates, self._read_rates, strict=True):
            if rate != read:
                tensor.fill_(rate)
        self._read_rates = rates
        assert self._replay is not None
        self._replay()


def make_update(update: Update, pair: nn.Module, num_data: int | None) -> Update | ReplayedUpdate:
    """The update, replayed where that can be: on CUDA, of resident data, compiled, with torch's fused Adam."""
    optimizer = update.optimizer
    fused = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and all(
        group["fused"] and not group["capturable"] and not isinstance(group["lr"], Tensor)
        for group in optimizer.param_groups
    )
    on_cuda = all(tensor.is_cuda for tensor in (*pair.parameters(), *pair.buffers()))
    compiled = isinstance(update.take, CompiledStep)
    if num_data is None or not (on_cuda and compiled and fused and update.batches.resident):
        return update
    return ReplayedUpdate(update, pair, num_data)


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody's Python runs before or after the optimiser's step."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _put(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            if not torch.equal(tensor, value):
                tensor.copy_(value)


def _check(before: list[Tensor], expected: list[Tensor], again: list[Tensor], found: list[Tensor]) -> None:
    """Raise ``RuntimeError`` unless a replay moved every tensor as the update did, but for rounding.

    Kernels that add up in any order differ from run to run, which a second run of the update, ``again``, shows.
    """
    for start, target, other, value in zip(before, expected, again, found, strict=True):
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
    """The error that the others came of, in one line: after it a driver says only that there was one."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]
