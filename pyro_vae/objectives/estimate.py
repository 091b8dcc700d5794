"""What an objective has to say of one run of a pair."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Estimate"]


class _Bounds(NamedTuple):
    loss: Tensor
    bound: Tensor
    true_bound: Tensor


class Estimate(_Bounds):
    """The scalar ``loss`` and two bounds ``(B,)`` in nats, with and without annealing, from one run of a pair.

    ``global_term`` is the share of global latents in the true bound of each datum, ``None`` without such latents.
    """

    global_term: Tensor | None = None
