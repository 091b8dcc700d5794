"""The check that a program's likelihood covers data which are only encoded, and not scored."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.batch import Batch
from pyro_vae.inference.support import check_values, is_constant
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import seeded

__all__ = ["SupportCheck"]


class SupportCheck:
    """A check of batches of data, one after the other, against the support of p(x|z).

    The support is that of one datum that the model draws, before the first batch; no generator is moved. A likelihood
    whose support depends on the latents, and data that the model does not observe as they are, are not checked.

    Parameters
    ----------
    program
        A pair of programs as one module.
    """

    def __init__(self, program: Any) -> None:
        self.program = program
        self.start = 0
        self.fn: Any = None

    def __call__(self, batch: Batch, data: Tensor) -> None:
        """Raise ``ValueError`` for the first value in a batch that the likelihood does not cover.

        ``data`` is the batch as the guide takes it.
        """
        shape = getattr(self.program.likelihood, "data_shape", None)
        x = None if shape is None else _observed(data, tuple(shape), hasattr(self.program, "num_classes"))
        if x is not None:
            if self.fn is None:
                with seeded(0, placement(self.program)[0]):
                    self.fn = self.program._generate(1, {})["fn"]
            is_packed = isinstance(batch, Tensor) and tuple(batch.shape[1:]) == (2, *x.shape[1:])
            seen = batch[:, 1] != 0 if isinstance(batch, Tensor) and is_packed else torch.tensor(True, device=x.device)
            if is_constant(self.fn) and self.fn.event_shape == x.shape[1:]:
                check_values(self.fn, x, seen, self.start, 0, "x", "site 'x'")
        self.start += len(data)


def _observed(data: Tensor, shape: tuple[int, ...], is_labelled: bool) -> Tensor | None:
    """Return the data ``(B, *data_shape)`` in what a guide takes, ``None`` where they are not in it as they are."""
    if tuple(data.shape[1:]) == shape:
        return data
    if is_labelled and tuple(data.shape[1:]) == (math.prod(shape) + 1,):
        return data[:, :-1].reshape(len(data), *shape)
    return None
