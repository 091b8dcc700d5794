r"""The gradient of a batch whose data are shared among ranks.

Rank r has :math:`B_r` of the B data, and the gradient :math:`g_r` of the mean loss of those. The mean over the batch is

.. math:: g = \frac{\sum_r B_r\, g_r}{\sum_r B_r} .

All gradients travel in one flat tensor, so that a step sends one message.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.runtime.ranks import Ranks

__all__ = ["Averaging", "agree"]


class Averaging:
    """Average gradients over ranks.

    Parameters
    ----------
    parameters
        Returns those that are trained, in the same order on all ranks.
    ranks
        The ranks.
    """

    def __init__(self, parameters: Callable[[], Sequence[nn.Parameter]], ranks: Ranks) -> None:
        self.parameters, self.ranks = parameters, ranks
        self._tails: dict[tuple[float, ...], Tensor] = {}  # as a CUDA graph can read what is on the device alone

    @classmethod
    def of(cls, module: nn.Module, ranks: Ranks) -> Averaging | None:
        """Return the averaging of what is trained of a module, and ``None`` for a single rank."""
        return None if ranks.size == 1 else cls(lambda: [p for p in module.parameters() if p.requires_grad], ranks)

    def __call__(self, gradients: Sequence[Tensor | None], num_data: int) -> tuple[list[Tensor], Tensor]:
        """Return the mean gradients of all parameters, and how many ranks have one of each, ``(num_parameters,)``.

        Parameters
        ----------
        gradients
            Those of this rank, in the order of the parameters; ``None`` counts as zero.
        num_data
            The number of data that they are of.
        """
        parameters = self.parameters()
        pieces = [
            torch.zeros_like(p) if g is None or num_data == 0 else g * num_data
            for p, g in zip(parameters, gradients, strict=True)
        ]
        dtype = max((piece.dtype for piece in pieces), key=lambda dtype: torch.finfo(dtype).bits)
        numbers = (*(0.0 if g is None else 1.0 for g in gradients), float(num_data))
        if numbers not in self._tails:
            self._tails[numbers] = torch.tensor(numbers, dtype=dtype, device=pieces[0].device)
        tail = self._tails[numbers]
        flat = torch.cat([*(piece.reshape(-1).to(dtype) for piece in pieces), tail])
        self.ranks.sum_(flat)
        *averaged, tail = flat.split([*(piece.numel() for piece in pieces), len(tail)])
        means = [
            (each / tail[-1]).reshape(piece.shape).to(piece.dtype) for each, piece in zip(averaged, pieces, strict=True)
        ]
        return means, tail[:-1]

    def of_some(
        self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], num_data: int
    ) -> list[Tensor]:
        """Return the mean gradients of some of the parameters; the others have none, on any rank."""
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        order = [places.get(id(parameter)) for parameter in self.parameters()]
        means, _ = self([None if place is None else gradients[place] for place in order], num_data)
        found = {place: mean for place, mean in zip(order, means, strict=True) if place is not None}
        return [found[place] for place in range(len(parameters))]

    def set_gradients(self, num_data: int) -> None:
        """Replace the gradients of the parameters by their mean over the ranks."""
        parameters = self.parameters()
        means, found = self([parameter.grad for parameter in parameters], num_data)
        for parameter, mean, number in zip(parameters, means, found.tolist(), strict=True):
            parameter.grad = mean if number else None


@torch.no_grad()
def agree(module: nn.Module, ranks: Ranks) -> None:
    """Hold the parameters and buffers of a module against those of the other ranks; where they differ, take rank 0's.

    A warning names them. Parameters that take the same steps stay the same. Buffers may not, such as a program's own
    averages over a batch, of which each rank has a share.
    """
    tensors = {name: each for name, each in module.state_dict().items() if each.numel()}
    sums = [(each.double().sum(), each.double().square().sum()) for each in tensors.values()]
    found = ranks.table(torch.stack([each for pair in sums for each in pair]).tolist() if sums else [])
    same = (found == found[0]) | (found.isnan() & found[0].isnan())
    names = [
        name for name, is_same in zip(tensors, same.all(0).reshape(-1, 2).all(1).tolist(), strict=True) if not is_same
    ]
    for name in names:
        tensors[name].copy_(ranks.sum_(tensors[name].clone() if ranks.is_first else torch.zeros_like(tensors[name])))
    if names:
        warnings.warn(
            f"found other values of {', '.join(names[:3])} on another rank at the end of an epoch, expected what a "
            "whole batch says of them: each rank has a share of it; those of rank 0 are taken",
            UserWarning,
            stacklevel=6,
        )
