r"""Compile a whole update of the weights, and run it for a block of steps at once.

With torch's Adam an update is a function of a batch and some numbers; of resident data the rows of a batch are enough,

.. math:: \text{rows} \;\longmapsto\; x \;\longmapsto\; g = \nabla_\theta \tfrac1B \textstyle\sum_b
          \mathrm{loss}(x_b), \; \textstyle\sum_b \mathrm{bound}(x_b), \qquad
          (g, \alpha_t) \;\longmapsto\; \theta, m, v ,

which are compiled as two graphs, so that Python makes two calls a step. (One graph for both gave a wrong bound on a
GPU. Why is not known for certain; a bias that is read after Adam has changed it would explain it.) What changes from
step to step, the rows, the learning rates and the values of schedules, is prepared for a block of steps. On a GPU a
block is one CUDA graph, see :mod:`pyro_vae.training.cuda_graph`. Its result is that of the same steps one by one, on
the same draws. The batches of a loader of one's own are taken one by one: to read several ahead would change which
draws its data set and the programs make of the same generator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.compilation.compiled import Compiled, Kernels, Outputs
from pyro_vae.compilation.guards import options_of
from pyro_vae.data.batch import Arguments, Batch, tensors_in
from pyro_vae.data.batches import Batches, Pick
from pyro_vae.schedules import Schedule
from pyro_vae.training.adam import NUM_FACTORS, Adam, on_device
from pyro_vae.training.averaging import Averaging
from pyro_vae.training.block_length import BlockLength
from pyro_vae.training.cuda_graph import Block, CapturedBlocks, OneStep, run_block
from pyro_vae.training.run_schedule import RunSchedule
from pyro_vae.training.run_state import RunState
from pyro_vae.training.step import CompiledStep, Step
from pyro_vae.training.update import Check, Update, clipped

__all__ = ["CompiledUpdate", "make_update"]

_BYTES = 1 << 26  # of the batches of a loader that are in memory at once


class CompiledUpdate:
    """Updates with whole batches, compiled, and run for many steps a call where they can be read ahead.

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
        Captures blocks of steps on resident data and replays them; ``None`` runs them one by one.
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
        self.adam, self.batches, self.num_data = Adam(plain.optimizer), plain.batches, plain.batches.share_size
        self.total, self.device = plain.total, plain.batches.device
        self.global_term: Tensor | None = None
        self.gradients = Compiled(
            self._gradients, (*step.sources, *self.batches.parts), name="training step", num_data=self.num_data,
            constants=self.batches.stored(), **options,
        )  # fmt: skip
        self.moves = Compiled(self._moves, (), name="optimiser's step", moves=True, **options)
        self._forms: dict[Any, tuple[Any, ...]] = {}  # of Adam and the clipping -> options of a call of its graph
        self._with_gradient: list[nn.Parameter] = []
        self._length, self._size = BlockLength(self.device), _BYTES  # of a batch

    @property
    def longest(self) -> int:
        """The number of picks that it takes at once."""
        if self.batches.resident:
            return self._length.number
        return min(self._length.number, max(_BYTES // self._size, 1)) if self.batches.can_be_ahead else 1

    def reasons(self) -> list[str]:
        """Return why it is not compiled, or not captured, as far as that is known."""
        reason = self.gradients.reason or self.step.hooked
        found = [f"the training step is not compiled: {reason}"] if reason else []
        if self.moves.reason:
            found.append(f"the optimiser's step is not compiled: {self.moves.reason}")
        if self.captured is not None and self.captured.reason:
            found.append(f"the update is not captured as a CUDA graph: {self.captured.reason}")
        return found

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter had a gradient in the last steps."""
        return self.plain.has_gradient(parameter) or any(parameter is each for each in self._with_gradient)

    def __call__(self, picks: Sequence[Pick], schedule: RunSchedule, check: Check | None = None) -> int:
        """Update the weights as :class:`Update` does."""
        whole = self._are_whole(picks)
        is_ready = whole and check is None and self._is_ready()
        inputs: list[Any] = list(picks if self.batches.resident else map(self.batches.read, picks)) if is_ready else []
        kernels = self._kernels(inputs[0]) if inputs else None
        if kernels is None:
            num_data = self.plain(picks, schedule, check)
            self.global_term = self.plain.global_term
            if whole:  # it is not ready: step by step, as it is slow
                self._length.number = 1
            return num_data
        for parameter in self.step.parameters:
            parameter.grad = None
        started = time.perf_counter()
        self._run(*kernels, self._block(inputs, schedule))
        schedule.set(len(picks) - 1)
        self._length.ended(len(picks), started, is_read=not self.batches.resident)
        self._size = max(sum(tensor.nbytes for tensor in tensors_in(inputs[0])), 1)
        return sum(map(len, inputs))

    def _are_whole(self, picks: Sequence[Pick]) -> bool:
        """Return whether these are rows of whole batches, or a whole batch of a loader."""
        if self.batches.resident:
            return all(isinstance(pick, Tensor) and len(pick) == self.num_data for pick in picks)
        assert isinstance(picks[0], (Tensor, Arguments))
        if self.num_data is None:  # where the loader does not tell, the first batch does
            self.num_data = self.gradients.num_data = len(picks[0])
        return len(picks[0]) == self.num_data

    def _is_ready(self) -> bool:
        """Return whether this is a step that can be compiled: by torch's Adam, whose state is there."""
        if self.gradients.reason or self.step.is_hooked():
            return False
        if self.moves.reason or self.adam.unfit():
            self.plain.gradient_step = self.step  # the gradients are compiled still
            return False
        return self.adam.has_state()

    def _kernels(self, x: Batch) -> tuple[Kernels, Kernels] | None:
        """Return the kernels of the gradients and of the optimiser, compiled if they have to be."""
        if not self.gradients.is_current(options_of(x)):
            self._length.restart()
        gradients = self.gradients.kernels(x)
        if gradients is None:
            return None
        self.step.renew(gradients.version)
        found = zip(self.step.parameters, gradients.trace.given, strict=False)
        self._with_gradient = [parameter for parameter, given in found if given]
        trained = self.adam.of_groups(self._with_gradient)
        if not trained or not all(map(self.adam.slots, trained)):
            return None  # a first gradient, which makes the state
        self.adam.arrange(trained)
        form = (self.adam.form(), self.plain.clip_norm)
        if form not in self._forms or not self.moves.is_current(self._forms[form]):
            self._compile_moves(form)
        return None if self.moves.reason else (gradients, self.moves.last)

    def _compile_moves(self, form: Any) -> None:
        """Compile the optimiser's step, on copies of its tensors and likely gradients."""
        self._length.restart()
        numbers = torch.tensor([[1e-3, 1.0, 1.0, 0.9, 0.1, 0.999, 1e-3, 1e-8, 0.0, 0.0]], dtype=torch.float64)
        factors = numbers.expand(len(self.adam.columns), NUM_FACTORS).contiguous().to(self.device)
        theta, m, v = self.adam.tensors()
        copies = [each.detach().clone() for each in (*theta, *theta, *m, *v)]
        x = Arguments(factors, *copies, len(self._forms))
        self._forms[form] = options_of(x)
        self.moves.num_data = None  # there may be another number of columns
        self.moves.kernels(x)

    def _gradients(self, x: Batch) -> list[Tensor | None]:
        """Return what a step gives for some rows, or for a loader's batch."""
        return self.step.outputs(self.batches.read(x) if self.batches.resident else x)

    def _moves(self, x: Arguments) -> list[Tensor | None]:
        """Move parameters and the state of the optimiser by gradients."""
        factors, *tensors, _ = x.args
        number = len(tensors) // 4
        g, theta, m, v = (tensors[start : start + number] for start in range(0, 4 * number, number))
        with torch.no_grad():
            self.adam.move(clipped(g, self.plain.clip_norm), theta, m, v, factors)
        return []

    def _block(self, inputs: list[Any], schedule: RunSchedule) -> Block:
        steps = range(len(inputs))
        values = torch.tensor([schedule.values(ahead) for ahead in steps], dtype=torch.float64)
        factors = self.adam.factors([schedule.rates(ahead) for ahead in steps])
        rows = torch.stack(inputs) if self.batches.resident else inputs
        return Block(rows, factors.to(self.device), on_device(values, self.device))

    def _run(self, gradients: Kernels, moves: Kernels, block: Block) -> None:
        places = {id(parameter): place for place, parameter in enumerate(self._with_gradient)}
        order = [places[id(parameter)] for parameter in self.adam.order()]
        theta, m, v = self.adam.tensors()

        def step(x: Batch, factors: Tensor, values: Tensor) -> Outputs:
            for scheduled, value in zip(self.schedules, values.unbind(), strict=True):
                scheduled.value.copy_(value)
            outputs = self._averaged(gradients.run(*tensors_in(x), *gradients.trace.tensors))
            moves.run(factors, *[outputs[place] for place in order], *theta, *m, *v, *moves.trace.tensors)
            self.total.add_(outputs[-1])
            return outputs[len(places) : -1]

        with torch.no_grad():
            outputs = self._replayed(gradients, moves, step, block)
            if outputs is None:
                outputs = run_block(step, block)
        (self.global_term,) = outputs or (None,)
        setattr(self.plain.optimizer, "_opt_called", True)  # noqa: B010  for torch's schedulers, which ask for a step

    def _averaged(self, outputs: Outputs) -> Outputs:
        """Return what a step gives, with the gradients of the whole batch where ranks share it."""
        if self.plain.averaging is None:
            return outputs
        number = len(self._with_gradient)
        gradients = self.plain.averaging.of_some(self._with_gradient, outputs[:number], self.num_data or 0)
        return (*gradients, *outputs[number:])

    def _replayed(self, gradients: Kernels, moves: Kernels, step: OneStep, block: Block) -> Outputs | None:
        """Run a block as a captured one and return what its last step gives; ``None`` if nothing was done."""
        if self.captured is None:
            return None
        written = [*(each for tensors in self.adam.tensors() for each in tensors), self.total]
        read = [*gradients.trace.tensors, *moves.trace.tensors, *written]
        order = list(map(id, self.adam.order()))
        state = (gradients.version, moves.version, order, [tensor.data_ptr() for tensor in read])
        moved = {each.data_ptr(): each for each in (*gradients.moved(self.gradients.constants), *written)}
        return self.captured(step, block, state, list(moved.values()))


def make_update(
    state: RunState, batches: Batches, step: Step, clip_norm: float | None, schedules: Sequence[Schedule],
    say: Callable[[str], None],
) -> Update | CompiledUpdate:  # fmt: skip
    """Return the update of a run, compiled as a whole with torch's Adam if the step is compiled.

    A loader's batches that ranks share are of any size at an epoch's end, and are updated with step by step.
    """
    optimizer, averaging = state.optimizer, Averaging.of(state.module, batches.ranks)
    is_cut = not batches.resident and batches.ranks.size > 1
    if not isinstance(step, CompiledStep) or is_cut or Adam(optimizer).unfit() is not None:
        return Update(batches, step, optimizer, clip_norm, state.bounds, averaging)
    plain = Update(batches, step.eager, optimizer, clip_norm, state.bounds, averaging)
    captured = CapturedBlocks() if batches.device.type == "cuda" and batches.resident else None
    return CompiledUpdate(plain, step, schedules, captured, say=say)
