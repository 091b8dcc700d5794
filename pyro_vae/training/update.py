r"""Update the weights: read a batch, set the gradients, clip them, step the optimiser.

.. math:: g = \nabla\, \frac1B \sum_b \mathrm{loss}(x_b), \qquad
          \theta \leftarrow \mathrm{Adam}\bigl(\theta,\; g \min(1, c / \lVert g \rVert)\bigr)

All of it is compiled in one where it can be, see :mod:`pyro_vae.training.compiled_update`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.data.batch import Batch
from pyro_vae.data.batches import Batches, Pick
from pyro_vae.data.shares import Part
from pyro_vae.runtime.batch_sums import sharing
from pyro_vae.runtime.state import generators
from pyro_vae.training.averaging import Averaging
from pyro_vae.training.run_schedule import RunSchedule
from pyro_vae.training.step import CompiledStep, Step

__all__ = ["Check", "Update", "clipped", "in_blocks"]

Check = Callable[[Batch, Tensor, dict[str, Tensor]], None]  # a batch, its bounds, the generators before its draws


class Update:
    """One update of the weights after the other, by any step and any optimiser.

    The summed bounds of each, as a step returns them, are added to ``total``, ``(2,)`` in float64. Where ranks share
    the batches, these are the bounds of one share, and ``averaging`` makes the gradients those of a whole batch.
    """

    longest = 1  # picks in a call

    def __init__(
        self,
        batches: Batches,
        gradient_step: Step,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        total: Tensor,
        averaging: Averaging | None = None,
    ) -> None:
        self.averaging = averaging
        self.batches, self.gradient_step, self.optimizer, self.clip_norm = batches, gradient_step, optimizer, clip_norm
        self.total = total

    @property
    def global_term(self) -> Tensor | None:
        """What global latents added to the bound of each datum in the last step."""
        term: Tensor | None = getattr(self.gradient_step, "global_term", None)
        return term

    def reasons(self) -> list[str]:
        """Return why it is not compiled, or not captured, as far as that is known."""
        step = self.gradient_step
        reason = (step.gradients.reason or step.hooked) if isinstance(step, CompiledStep) else None
        return [f"the training step is not compiled: {reason}"] if reason else []

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter had a gradient in the last step."""
        return parameter.grad is not None

    def __call__(self, picks: Sequence[Pick], schedule: RunSchedule, check: Check | None = None) -> int:
        """Update the weights with the batch of each pick.

        Parameters
        ----------
        picks
            Some of the batches' ``picks``, in order.
        schedule
            The learning rates, and what else changes with the step.
        check
            Called when the gradients of a step are there, before the weights change.

        Returns
        -------
        int
            The number of data, of this rank's share.
        """
        num_data = 0
        for ahead, pick in enumerate(picks):
            schedule.set(ahead)
            x = self.batches.read(pick)
            before = {} if check is None else generators(x.device)
            size = pick.num_data if isinstance(pick, Part) else len(x)
            with sharing(self.batches.ranks, size):
                bounds = self.gradient_step(x)
            if check is not None:
                check(x, bounds, before)
            if self.averaging is not None:
                self.averaging.set_gradients(size)
            if self.clip_norm is not None:
                stepped = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
                nn.utils.clip_grad_norm_(stepped, self.clip_norm)
            self.optimizer.step()
            if size:
                self.total.add_(bounds)
            num_data += size
        return num_data


def in_blocks(picks: Iterator[Pick], size: int | None, longest: Callable[[], int]) -> Iterator[list[Pick]]:
    """Yield the picks in blocks of at most ``longest()``; one that is not of ``size`` rows stands alone.

    >>> [len(block) for block in in_blocks(iter([torch.zeros(4)] * 5 + [torch.zeros(2)]), 4, lambda: 3)]
    [3, 2, 1]
    """
    block: list[Pick] = []
    for pick in picks:
        whole = isinstance(pick, Tensor) and len(pick) == size
        if block and not whole:
            yield block
            block = []
        block.append(pick)
        if not whole or len(block) >= longest():
            yield block
            block = []
    if block:
        yield block


def clipped(gradients: Sequence[Tensor], largest: float | None) -> list[Tensor]:
    """Return gradients whose global norm is at most ``largest``, if it is one."""
    if largest is None:
        return list(gradients)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * factor for gradient in gradients]
