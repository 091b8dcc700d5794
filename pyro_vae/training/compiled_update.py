r"""Compile a whole update of the weights, and run it for a block of steps at once.

With resident data and torch's Adam an update is one function of the rows of a batch,

.. math:: (\text{rows}, \alpha_t) \;\longmapsto\; x \;\longmapsto\; g = \nabla_\theta \tfrac1B
          \textstyle\sum_b \mathrm{loss}(x_b) \;\longmapsto\; \theta, m, v, \textstyle\sum_b \mathrm{bound}(x_b) ,

which moves parameters, slots of the optimiser and the sum of the bounds in place. It is traced and compiled as one
graph, so that between two steps Python makes one call. What changes from step to step, the rows, the learning rates and
the values of schedules, is prepared for a block of steps. On a GPU a block is one CUDA graph, see
:mod:`pyro_vae.training.cuda_graph`. Its result is that of the same steps one by one, on the same draws.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.compilation.compiled import Compiled, Kernels, Outputs
from pyro_vae.compilation.guards import options_of
from pyro_vae.data.batch import Arguments
from pyro_vae.data.batches import Batches
from pyro_vae.schedules import Schedule
from pyro_vae.training.adam import NUM_FACTORS, Adam
from pyro_vae.training.cuda_graph import Block, CapturedBlocks, run_block
from pyro_vae.training.run_schedule import RunSchedule
from pyro_vae.training.step import CompiledStep, Step
from pyro_vae.training.update import Check, Pick, Update

__all__ = ["CompiledUpdate", "make_update"]

_LONGEST = 64  # steps in a block
_SECONDS = 0.1  # that a block may take: so long does Ctrl-C wait
_NUM_TIMED = 3  # blocks that are waited for on a GPU, to know how long a step takes


class CompiledUpdate:
    """Updates with whole batches of resident data, compiled as one function and run for many steps a call.

    Any other batch is updated with as ``plain`` does. So is the first, which makes the state of the optimiser.

    Parameters
    ----------
    plain
        The same update, step by step and not compiled.
    step
        What gives the gradients, of this package's objectives.
    schedules
        Those that the programs and the objective read.
    captured
        Captures blocks of steps and replays them; ``None`` runs them one by one.
    options
        Those of :class:`~pyro_vae.compilation.compiled.Compiled`.
    """

    def __init__(
        self,
        plain: Update,
        step: CompiledStep,
        schedules: Sequence[Schedule] = (),
        captured: CapturedBlocks | None = None,
        **options: Any,
    ) -> None:
        self.plain, self.step, self.schedules, self.captured = plain, step, list(schedules), captured
        self.adam, self.batches, self.num_data = Adam(plain.optimizer), plain.batches, plain.batches.batch_size
        self.total = torch.zeros(2, dtype=torch.float64, device=self.batches.device)
        self.global_term: Tensor | None = None
        self.compiled = Compiled(
            self._updated, (*step.sources, *self.batches.parts), name="training step", num_data=self.num_data,
            constants=self.batches.stored(), **options,
        )  # fmt: skip
        self.unfit: str | None = None
        self._length, self._num_blocks, self._seconds = 1, 0, math.inf  # of a step
        self._settings: Any = None
        self._version = 0  # of the settings, of which a graph holds all
        self._lacking: set[int] | None = None  # parameters that had no state of the optimiser at the last call

    @property
    def longest(self) -> int:
        """The number of picks that it takes at once."""
        return self._length

    def reasons(self) -> list[str]:
        """Return why it is not compiled, or not captured, as far as that is known."""
        reason = self.compiled.reason or self.step.hooked or self.unfit
        found = [f"the training step is not compiled: {reason}"] if reason else []
        if self.captured is not None and self.captured.reason:
            found.append(f"the update is not captured as a CUDA graph: {self.captured.reason}")
        return found

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter had a gradient in the last steps."""
        return self.plain.has_gradient(parameter) or id(parameter) in self._trained

    def __call__(self, picks: Sequence[Pick], schedule: RunSchedule, check: Check | None = None) -> tuple[Tensor, int]:
        """Update the weights as :class:`Update` does; the next call overwrites the bounds."""
        whole = all(isinstance(pick, Tensor) and len(pick) == self.num_data for pick in picks)
        kernels = self._kernels(picks[0]) if whole and check is None and self._is_ready() else None
        if kernels is None:
            bounds, num_data = self.plain(picks, schedule, check)
            self.global_term = self.plain.global_term
            return bounds, num_data
        for parameter in self.step.parameters:
            parameter.grad = None
        started = time.perf_counter()
        self._run(kernels, self._block(picks, schedule))
        schedule.set(len(picks) - 1)
        self._num_blocks += 1
        if not self.total.is_cuda or 1 < self._num_blocks <= _NUM_TIMED:  # the first one warms up
            _wait(self.total.device)
            self._seconds = min(self._seconds, (time.perf_counter() - started) / len(picks))
            self._length = min(max(int(_SECONDS / self._seconds), 1), _LONGEST)
        return self.total, len(picks) * (self.num_data or 0)

    def _is_ready(self) -> bool:
        """Return whether this is a step that can be compiled: by torch's Adam, whose state is there."""
        if self.compiled.reason or self.step.is_hooked():
            return False
        unfit = self.adam.unfit()
        if unfit and not self.unfit:
            warnings.warn(f"the training step is not compiled: {unfit}", UserWarning, stacklevel=3)
        self.unfit = unfit
        if unfit:
            return False
        lacking = set(map(id, self.adam.without_state()))
        known, self._lacking = self._lacking, lacking
        if known is None:  # of a run that is resumed, those that never had a gradient
            known = lacking if self.adam.has_state() else set()
        return lacking <= known

    def _kernels(self, rows: Pick) -> Kernels | None:
        settings = (self.adam.settings(), self.plain.clip_norm)
        if settings != self._settings:
            self._settings, self._version = settings, self._version + 1
            self.adam.arrange()
            self._sample = torch.ones(len(self.adam.columns), NUM_FACTORS, dtype=torch.float64).to(self.total.device)
        x = Arguments(rows, self._sample, self._version)
        if self.compiled.num_traces and not self.compiled.is_current(options_of(x)):
            self._length, self._num_blocks, self._seconds = 1, 0, math.inf
        kernels = self.compiled.kernels(x)
        if kernels is None:
            self._length = 1
        else:
            self.step.renew(kernels.version)
        return kernels

    def _updated(self, x: Arguments) -> list[Tensor | None]:
        """Return what a step gives, and move the weights, the state of the optimiser and the sum of the bounds."""
        rows, factors, _ = x.args
        *gradients, global_term, bounds = self.step.outputs(self.batches.read(rows))
        assert bounds is not None
        found = {p: g for p, g in zip(self.step.parameters, gradients, strict=True) if g is not None}
        with torch.no_grad():
            self.adam.move(clipped(found, self.plain.clip_norm), factors)
            self.total.add_(bounds)
        return [*gradients, global_term, bounds]

    def _block(self, picks: Sequence[Any], schedule: RunSchedule) -> Block:
        steps, device = range(len(picks)), self.total.device
        values = torch.tensor([schedule.values(ahead) for ahead in steps], dtype=torch.float64)
        factors = self.adam.factors([schedule.rates(ahead) for ahead in steps])
        return Block(torch.stack(list(picks)), factors.to(device), values.to(device))

    def _run(self, kernels: Kernels, block: Block) -> None:
        tensors = kernels.trace.tensors

        @torch.no_grad()
        def step(rows: Tensor, factors: Tensor, values: Tensor) -> Outputs:
            for scheduled, value in zip(self.schedules, values.unbind(), strict=True):
                scheduled.value.copy_(value)
            return kernels.run(rows, factors, *tensors)

        self.total.zero_()
        moved = kernels.moved(self.compiled.constants)
        outputs = None
        if self.captured is not None:
            places = [tensor.data_ptr() for tensor in tensors]
            outputs = self.captured(step, block, (kernels.version, places), moved)
        if outputs is None:
            outputs = run_block(step, block)
        *gradients, self.global_term, _ = kernels.placed(outputs)
        self._trained = {id(p) for p, g in zip(self.step.parameters, gradients, strict=True) if g is not None}


def make_update(
    batches: Batches, step: Step, optimizer: torch.optim.Optimizer, clip_norm: float | None,
    schedules: Sequence[Schedule], say: Callable[[str], None],
) -> Update | CompiledUpdate:  # fmt: skip
    """Return the update of a run, compiled as a whole for resident data and torch's Adam if the step is compiled."""
    whole = isinstance(step, CompiledStep) and batches.resident and Adam(optimizer).unfit() is None
    if not whole:
        return Update(batches, step, optimizer, clip_norm)
    assert isinstance(step, CompiledStep)
    plain = Update(batches, step.eager, optimizer, clip_norm)
    captured = CapturedBlocks() if batches.device.type == "cuda" else None
    return CompiledUpdate(plain, step, schedules, captured, say=say)


def clipped(gradients: dict[nn.Parameter, Tensor], largest: float | None) -> dict[nn.Parameter, Tensor]:
    """Return gradients whose global norm is at most ``largest``, if it is one."""
    if largest is None:
        return gradients
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return {parameter: gradient * factor for parameter, gradient in gradients.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
