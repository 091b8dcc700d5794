r"""One update of the weights: read a batch, set the gradients, clip them, step the optimiser.

.. math:: \theta \leftarrow \mathrm{Adam}\bigl(\theta,\; g \min(1, c / \lVert g \rVert)\bigr)

On a GPU all of it can be recorded and replayed, see :mod:`pyro_vae.training.cuda_graph`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_vae.data.batches import Batches
from pyro_vae.runtime.state import generators
from pyro_vae.training.step import Step

__all__ = ["Check", "Update"]

Check = Callable[[Tensor, Tensor, dict[str, Tensor]], None]  # a batch, its bounds, the generators before its draws


class Update:
    """The update as its parts do it, one after the other."""

    def __init__(self, batches: Batches, take: Step, optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
        self.batches, self.take, self.optimizer, self.clip_norm = batches, take, optimizer, clip_norm

    def __call__(self, pick: Tensor | slice, check: Check | None = None) -> tuple[Tensor, int]:
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
        bounds = self.take(x)
        if check is not None:
            check(x, bounds, before)
        if self.clip_norm is not None:
            stepped = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(stepped, self.clip_norm)
        self.optimizer.step()
        return bounds, len(x)
