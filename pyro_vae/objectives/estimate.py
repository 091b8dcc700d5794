"""What an objective has to say of one run of a pair."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Estimate"]


class _Bounds(NamedTuple):
    loss: Tensor
    bound: Tensor
    true_bound: Tensor


class Estimate(_Bounds):
    """The scalar ``loss`` and two bounds ``(B,)`` in nats, with and without annealing, from one run of a pair.

    ``global_term`` is the share of global latents in the true bound of each datum, ``None`` without such latents.
    ``num_stood_for`` is the number of data that each bound stands for, more than 1 where programs draw a subsample.
    """

    global_term: Tensor | None = None
    num_stood_for: int | float = 1

    def sums(self) -> Tensor:
        """Return the two bounds summed over the data that they stand for, ``(2,)``: the true one, and the other."""
        return self.num_stood_for * torch.stack([self.true_bound.detach().sum(), self.bound.detach().sum()])
