r"""Compile a whole update of the weights, and run it for a block of steps at once.

With resident data and torch's Adam an update is a function of the rows of a batch and some numbers,

.. math:: \text{rows} \;\longmapsto\; x \;\longmapsto\; g = \nabla_\theta \tfrac1B \textstyle\sum_b
          \mathrm{loss}(x_b), \; \textstyle\sum_b \mathrm{bound}(x_b), \qquad
          (g, \alpha_t) \;\longmapsto\; \theta, m, v ,

which are compiled as two graphs, so that Python makes two calls a step. (In one graph, a kernel that adds a bias late
may read it when Adam has changed it already.) What changes from step to step, the rows, the learning rates and the
values of schedules, is prepared for a block of steps. On a GPU a block is one CUDA graph, see
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
from pyro_vae.training.adam import NUM_FACTORS, Adam, on_device
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
        self.gradients = Compiled(
            self._gradients, (*step.sources, *self.batches.parts), name="training step", num_data=self.num_data,
            constants=self.batches.stored(), **options,
        )  # fmt: skip
        self.moves = Compiled(self._moves, (), name="optimiser's step", moves=True, **options)
        self.unfit: str | None = None
        self._length, self._num_blocks, self._seconds = 1, 0, math.inf  # of a step
        self._made_for: Any = None  # the settings that a graph of Adam holds
        self._options: Any = None
        self._trained: list[nn.Parameter] = []  # those that have a gradient
        self._lacking: set[int] | None = None  # parameters that had no state of the optimiser at the last call

    @property
    def longest(self) -> int:
        """The number of picks that it takes at once."""
        return self._length

    def reasons(self) -> list[str]:
        """Return why it is not compiled, or not captured, as far as that is known."""
        reason = self.gradients.reason or self.moves.reason or self.step.hooked or self.unfit
        found = [f"the training step is not compiled: {reason}"] if reason else []
        if self.captured is not None and self.captured.reason:
            found.append(f"the update is not captured as a CUDA graph: {self.captured.reason}")
        return found

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter had a gradient in the last steps."""
        return self.plain.has_gradient(parameter) or any(parameter is each for each in self._trained)

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
        self._run(*kernels, self._block(picks, schedule))
        schedule.set(len(picks) - 1)
        self._num_blocks += 1
        if not self.total.is_cuda or 1 < self._num_blocks <= _NUM_TIMED:  # the first one warms up
            _wait(self.total.device)
            self._seconds = min(self._seconds, (time.perf_counter() - started) / len(picks))
            self._length = min(max(int(_SECONDS / self._seconds), 1), _LONGEST)
        return self.total, len(picks) * (self.num_data or 0)

    def _is_ready(self) -> bool:
        """Return whether this is a step that can be compiled: by torch's Adam, whose state is there."""
        if self.gradients.reason or self.moves.reason or self.step.is_hooked():
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

    def _kernels(self, rows: Pick) -> tuple[Kernels, Kernels] | None:
        """Return the kernels of the gradients and of the optimiser, compiled if they have to be."""
        assert isinstance(rows, Tensor)
        if not self.gradients.is_current():
            self._length, self._num_blocks, self._seconds = 1, 0, math.inf
        gradients = self.gradients.kernels(rows)
        if gradients is None:
            self._length = 1
            return None
        self.step.renew(gradients.version)
        settings = (self.adam.settings(), self.plain.clip_norm, gradients.version)
        if settings != self._made_for or not self.moves.is_current(self._options):
            found = zip(self.step.parameters, gradients.trace.given, strict=False)
            self._trained = [parameter for parameter, given in found if given]
            self._compile_moves()
            self._made_for = settings
        return None if self.moves.reason else (gradients, self.moves.last)

    def _compile_moves(self) -> None:
        """Compile the optimiser's step for parameters with a gradient, on likely numbers and gradients."""
        self._length, self._num_blocks, self._seconds = 1, 0, math.inf
        self.adam.arrange()
        numbers = torch.tensor([[1e-3, 1.0, 1.0, 0.9, 0.1, 0.999, 1e-3, 1e-8, 0.0, 0.0]], dtype=torch.float64)
        factors = numbers.expand(len(self.adam.columns), NUM_FACTORS).contiguous().to(self.total.device)
        x = Arguments(factors, *(p.detach().clone() for p in self._trained), self.moves.num_traces)
        self._options = options_of(x)
        self.moves.kernels(x)

    def _gradients(self, rows: Tensor) -> list[Tensor | None]:
        """Return what a step gives, and add its bounds to the total."""
        *gradients, global_term, bounds = self.step.outputs(self.batches.read(rows))
        assert bounds is not None
        self.total.add_(bounds)
        return [*gradients, global_term]

    def _moves(self, x: Arguments) -> list[Tensor | None]:
        """Move the parameters and the state of the optimiser."""
        factors, *gradients, _ = x.args
        found = dict(zip(self._trained, gradients, strict=True))
        with torch.no_grad():
            self.adam.move(clipped(found, self.plain.clip_norm), factors)
        return []

    def _block(self, picks: Sequence[Any], schedule: RunSchedule) -> Block:
        steps, device = range(len(picks)), self.total.device
        values = torch.tensor([schedule.values(ahead) for ahead in steps], dtype=torch.float64)
        factors = self.adam.factors([schedule.rates(ahead) for ahead in steps])
        return Block(torch.stack(list(picks)), factors.to(device), on_device(values, device))

    def _run(self, gradients: Kernels, moves: Kernels, block: Block) -> None:
        num_gradients = len(self._trained)

        @torch.no_grad()
        def step(rows: Tensor, factors: Tensor, values: Tensor) -> Outputs:
            for scheduled, value in zip(self.schedules, values.unbind(), strict=True):
                scheduled.value.copy_(value)
            outputs = gradients.run(rows, *gradients.trace.tensors)
            moves.run(factors, *outputs[:num_gradients], *moves.trace.tensors)
            return outputs[num_gradients:]

        self.total.zero_()
        outputs = None
        if self.captured is not None:
            read = [*gradients.trace.tensors, *moves.trace.tensors]
            state = (gradients.version, moves.version, [tensor.data_ptr() for tensor in read])
            moved = {id(each): each for each in (*gradients.moved(self.gradients.constants), *moves.moved())}
            outputs = self.captured(step, block, state, list(moved.values()))
        if outputs is None:
            outputs = run_block(step, block)
        (self.global_term,) = outputs or (None,)


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
