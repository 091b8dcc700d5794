r"""Set the gradients of the parameters by a batch, compiled or not.

.. math:: g = \nabla\, \frac1B \sum_b \mathrm{loss}(x_b)

What is done with them is in :mod:`pyro_vae.training.update`.
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
from pyro_vae.evaluation.bounds import summed_bounds
from pyro_vae.inference.annealing import Annealed, bare
from pyro_vae.inference.frozen import with_copied_buffers
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.subsampling import Around, as_it_is
from pyro_vae.objectives import Objective

__all__ = ["CompiledStep", "EagerStep", "Step", "make_steps"]

Step = Callable[[Batch], Tensor]  # sets the gradients, and returns the summed bounds: the true one, the maximised


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
            (estimate.loss / self.around.num_in_loss(x)).backward()
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
        self.module, self.parameters = module, list(module.parameters())
        self._version = 0  # of the kernels that these parameters are of
        self.hooked: str | None = None  # why a step ran as it is
        self.sources = (model, guide, objective)
        self.gradients = Compiled(self.outputs, self.sources, name="training step", **options)

    def __call__(self, x: Batch) -> Tensor:
        if self.is_hooked():
            return self.eager(x)
        for parameter in self.parameters:  # before the new ones are computed, whose memory this can then be
            parameter.grad = None
        *gradients, self.global_term, bounds = self.gradients(x)
        self.renew(self.gradients.version)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        assert bounds is not None
        return bounds

    def renew(self, version: int) -> None:
        """Look for the parameters of the module anew with other kernels: one may have been replaced."""
        if version != self._version:
            self._version, self.parameters = version, list(self.module.parameters())

    def is_hooked(self) -> bool:
        """Return whether parameters have hooks; warns of the first."""
        if not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.parameters):
            return False
        if self.hooked is None:
            self.hooked = "a parameter has a hook, which is Python within the backward pass"
            warnings.warn(f"the training step is not compiled: {self.hooked}", UserWarning, stacklevel=3)
        return True

    def outputs(self, x: Batch) -> list[Tensor | None]:
        """Return the gradient of each parameter, what global latents add to the bound of a datum, the summed bounds."""
        self.parameters = list(self.module.parameters())
        with self.around(x):
            estimate = self.objective.estimate(isolated(self.model), isolated(self.guide), x)
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        found = iter(torch.autograd.grad(estimate.loss / self.around.num_in_loss(x), trained, allow_unused=True))
        gradients = [next(found) if parameter.requires_grad else None for parameter in self.parameters]
        dense = [
            gradient.contiguous() if gradient is not None and parameter.is_contiguous() else gradient
            for parameter, gradient in zip(self.parameters, gradients, strict=True)
        ]
        return [*dense, estimate.global_term, estimate.sums()]


class Steps(NamedTuple):
    """The step of training, the bounds of validation, and what tells why the latter or both are not compiled."""

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
    """Return the step of training, the bounds of validation, and what tells why they are not compiled.

    The second is :func:`~pyro_vae.evaluation.bounds.summed_bounds`; both are compiled if they can be. The reasons are
    those that are known when they are asked for: none where all is compiled, or nothing was to be. Those of a compiled
    step are told by the update that takes it.
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
        return [f"the validation is not compiled: {validation.reason}"] if validation.reason else []

    return Steps(step, validation, reasons)
