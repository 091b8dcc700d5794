r"""Make one step of training: set the gradients by a batch, compiled or not, clip them, step the optimiser.

.. math:: g = \nabla\, \frac1B \sum_b \mathrm{loss}(x_b), \qquad
          \theta \leftarrow \mathrm{Adam}\bigl(\theta,\; g \min(1, c / \lVert g \rVert)\bigr)

On a GPU all of it can be captured and replayed, see :mod:`pyro_vae.training.cuda_graph`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.compilation.compiled import Compiled, Outputs
from pyro_vae.data.batch import Batch, call
from pyro_vae.data.batches import Batches
from pyro_vae.evaluation.bounds import summed_bounds
from pyro_vae.inference.annealing import Annealed, bare
from pyro_vae.inference.frozen import with_copied_buffers
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.subsampling import Around, as_it_is
from pyro_vae.objectives import Objective
from pyro_vae.runtime.state import generators

__all__ = ["Check", "CompiledStep", "EagerStep", "Step", "Update", "make_steps"]

Step = Callable[[Batch], Tensor]  # sets the gradients, and returns the summed bounds: the true one, the maximised
Check = Callable[[Batch, Tensor, dict[str, Tensor]], None]  # a batch, its bounds, the generators before its draws


class EagerStep:
    """The step as the programs run it, for any Pyro ELBO."""

    def __init__(
        self, model: nn.Module, guide: nn.Module, module: nn.Module, objective: Any, around: Around = as_it_is
    ) -> None:
        self.model, self.guide, self.module, self.objective = model, guide, module, objective
        self.around = around
        self.global_term: Tensor | None = None  # of each datum, in the last step

    def __call__(self, x: Batch) -> Tensor:
        self.module.zero_grad()  # not the optimiser's alone: it may hold a part of the parameters
        with self.around(x):
            return self._step(x)

    def _step(self, x: Batch) -> Tensor:
        model, guide = isolated(self.model), isolated(self.guide)
        if isinstance(self.objective, Objective):
            estimate = self.objective.estimate(model, guide, x)
            (estimate.loss / len(x)).backward()
            self.global_term = estimate.global_term
            return estimate.sums()
        if hasattr(self.objective, "differentiable_loss"):
            loss = call(functools.partial(self.objective.differentiable_loss, model, guide), x)
            (loss / self.around.num_in_loss(x)).backward()
            loss = loss.detach()
        else:  # a few Pyro ELBOs offer nothing else
            loss = call(functools.partial(self.objective.loss_and_grads, model, guide), x)
            loss = torch.as_tensor(loss, device=x.device)
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self.around.num_in_loss(x)
        return -len(x) / self.around.num_in_loss(x) * torch.stack([self._true_loss(x, loss), loss])

    def _true_loss(self, x: Batch, loss: Tensor) -> Tensor:
        """A Pyro ELBO's loss without annealing, which takes a run of its own."""
        if not isinstance(self.model, Annealed):
            return loss
        model, guide = (with_copied_buffers(isolated(bare(half))) for half in (self.model, self.guide))
        with torch.no_grad():
            true_loss = call(functools.partial(self.objective.loss, model, guide), x)
        return torch.as_tensor(true_loss, dtype=loss.dtype, device=x.device)


class CompiledStep:
    """The step of one of this package's objectives, compiled; the options are those of :class:`Compiled`."""

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        module: nn.Module,
        objective: Objective,
        around: Around = as_it_is,
        **options: Any,
    ) -> None:
        self.model, self.guide, self.objective, self.around = model, guide, objective, around
        self.eager = EagerStep(model, guide, module, objective, around)
        self.global_term: Tensor | None = None  # of each datum, in the last step
        self.parameters = list(module.parameters())
        self.hooked: str | None = None  # why a step ran as it is
        self.gradients = Compiled(self._gradients, (model, guide, objective), name="training step", **options)

    def __call__(self, x: Batch) -> Tensor:
        if self._has_hooks():
            if self.hooked is None:
                self.hooked = "a parameter has a hook, which is Python within the backward pass"
                warnings.warn(f"the training step is not compiled: {self.hooked}", UserWarning, stacklevel=2)
            return self.eager(x)
        for parameter in self.parameters:  # before the new ones are computed, whose memory this can then be
            parameter.grad = None
        *gradients, self.global_term, bounds = self.gradients(x)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        assert bounds is not None
        return bounds

    def is_current(self) -> bool:
        """Return whether it is compiled, and what it was compiled from is unchanged."""
        return not self._has_hooks() and self.gradients.is_current()

    def tensors(self) -> list[Tensor]:
        """Return the tensors that the kernels read anew at each call, besides the batch."""
        return self.gradients.tensors()

    def _has_hooks(self) -> bool:
        """Return whether parameters have hooks."""
        return any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.parameters)

    def _gradients(self, x: Batch) -> list[Tensor | None]:
        with self.around(x):
            estimate = self.objective.estimate(isolated(self.model), isolated(self.guide), x)
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        found = iter(torch.autograd.grad(estimate.loss / len(x), trained, allow_unused=True))
        gradients = [next(found) if parameter.requires_grad else None for parameter in self.parameters]
        dense = [
            gradient.contiguous() if gradient is not None and parameter.is_contiguous() else gradient
            for parameter, gradient in zip(self.parameters, gradients, strict=True)
        ]
        return [*dense, estimate.global_term, estimate.sums()]


class Update:
    """One update of the weights: read a batch, set the gradients, clip them, step the optimiser."""

    def __init__(
        self, batches: Batches, gradient_step: Step, optimizer: torch.optim.Optimizer, clip_norm: float | None
    ) -> None:
        self.batches, self.gradient_step, self.optimizer, self.clip_norm = batches, gradient_step, optimizer, clip_norm

    @property
    def global_term(self) -> Tensor | None:
        """What global latents added to the bound of each datum in the last step."""
        term: Tensor | None = getattr(self.gradient_step, "global_term", None)
        return term

    def __call__(self, pick: Batch | slice, check: Check | None = None) -> tuple[Tensor, int]:
        """Update the weights with the batch of a pick.

        Parameters
        ----------
        pick
            One of the batches' ``picks``.
        check
            Called when the gradients are there, before the weights change.

        Returns
        -------
        tuple
            The summed bounds, as a step returns them, and the number of data.
        """
        x = self.batches.read(pick)
        before = {} if check is None else generators(x.device)
        bounds = self.gradient_step(x)
        if check is not None:
            check(x, bounds, before)
        if self.clip_norm is not None:
            stepped = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(stepped, self.clip_norm)
        self.optimizer.step()
        return bounds, len(x)


class Steps(NamedTuple):
    """The step of training, the bounds of validation, and what tells why either is not compiled."""

    gradient_step: Step
    summed: Callable[[Batch], Outputs]
    reasons: Callable[[], list[str]]


def make_steps(
    model: nn.Module,
    guide: nn.Module,
    module: nn.Module,
    objective: Any,
    num_data: int | None,
    compiled: bool,
    say: Callable[[str], None],
    around: Around = as_it_is,
) -> Steps:
    """Return the step of training, the bounds of validation, and what tells why either is not compiled.

    The second is :func:`~pyro_vae.evaluation.bounds.summed_bounds`; both are compiled if they can be. The reasons are
    those that are known when they are asked for: none where all is compiled, or nothing was to be.
    """
    summed = summed_bounds(model, guide, objective, around)
    if not compiled:
        return Steps(EagerStep(model, guide, module, objective, around), summed, list)
    if not isinstance(objective, Objective):
        reason = (
            f"the training step is not compiled: found {type(objective).__name__}, expected an objective of pyro_vae"
        )
        warnings.warn(reason, UserWarning, stacklevel=3)
        return Steps(EagerStep(model, guide, module, objective, around), summed, lambda: [reason])
    options: dict[str, Any] = {"num_data": num_data, "say": say}
    validation = Compiled(summed, (model, guide, objective), name="validation", **options)
    step = CompiledStep(model, guide, module, objective, around, **options)

    def reasons() -> list[str]:
        known = {"training step": step.gradients.reason or step.hooked, "validation": validation.reason}
        return [f"the {name} is not compiled: {reason}" for name, reason in known.items() if reason]

    return Steps(step, validation, reasons)
