r"""Sums over the data of a batch that ranks share.

A layer with statistics of a batch, such as batch normalisation, has only one rank's share of it. What it sums over the
data is then summed over the ranks too,

.. math:: s = \sum_r s_r , \qquad \frac{\partial L}{\partial s_r} = \sum_{r'} \frac{\partial L_{r'}}{\partial s} .
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.runtime.ranks import Ranks

__all__ = ["batch_mean", "is_shared", "of_first", "sharing", "summed"]


class _Shared(NamedTuple):
    ranks: Ranks
    num_data: int


_shared: _Shared | None = None  # of the step under way


@contextmanager
def sharing(ranks: Ranks, num_data: int) -> Iterator[None]:
    """Say, for a block, that ranks share a batch, and how many of its data are this rank's."""
    global _shared
    before, _shared = _shared, None if ranks.size == 1 else _Shared(ranks, num_data)
    try:
        yield
    finally:
        _shared = before


def is_shared() -> bool:
    """Return whether a step is under way whose batch ranks share."""
    return _shared is not None


def summed(sums: Tensor) -> Tensor:
    """Return sums over the data of a batch, from those over this rank's share; with gradients.

    >>> summed(torch.ones(2))  # of a batch that is not shared
    tensor([1., 1.])
    """
    return sums if _shared is None else _Summed.apply(sums, *_shared)


def batch_mean(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the mean over some dimensions, one of them the data, of a whole batch; without gradients.

    >>> batch_mean(torch.tensor([[1.0, 3.0]]), (0, 1))  # of a batch that is not shared
    tensor(2.)
    """
    values = values.detach()
    if _shared is None:
        return values.mean(dims)
    sums = values.sum(dims)
    count = sums.new_tensor([values.numel() / sums.numel()])
    totals = summed(torch.cat([sums.reshape(-1), count]))
    return (totals[:-1] / totals[-1]).reshape(sums.shape)


def of_first(values: Tensor) -> Tensor:
    """Return the values that rank 0 has, on all ranks."""
    if _shared is None:
        return values
    return _shared.ranks.sum_(values.clone() if _shared.ranks.is_first else torch.zeros_like(values))


class _Summed(torch.autograd.Function):
    """The sum over ranks.

    The loss of rank r is a mean over :math:`B_r` data, which :class:`~pyro_vae.training.averaging.Averaging` weighs by
    that number. So gradients that come from another rank have to be weighed by its number instead.
    """

    @staticmethod
    def forward(ctx: Any, sums: Tensor, ranks: Ranks, num_data: int) -> Tensor:
        ctx.ranks, ctx.num_data = ranks, num_data
        return ranks.sum_(sums.detach().clone() if num_data else torch.zeros_like(sums))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = ctx.ranks.sum_(gradients[0] * ctx.num_data)
        return (gradient / ctx.num_data if ctx.num_data else torch.zeros_like(gradient)), None, None
