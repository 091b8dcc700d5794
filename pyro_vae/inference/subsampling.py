r"""Batches as subsamples of the data, for programs with global latents.

A batch of B out of N data tells B/N of what all data tell of a global latent W, so its term counts B/N in a batch and
once in a pass over the data,

.. math:: \frac1N \log\frac{p(x, z, W)}{q(z, W|x)} \approx \frac1B \Bigl[\sum_{b=1}^B \log w_b
          + \frac{B}{N} \log\frac{p(W)}{q(W)}\Bigr] .

That is what ``pyro.plate("data", N, subsample_size=B)`` means, but for the common factor N/B. Programs that open
``pyro.plate("data", len(x))`` know nothing of N; here they are told.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_vae.data.batch import Batch
from pyro_vae.errors import ProgramError
from pyro_vae.inference.plates import DataPlate
from pyro_vae.inference.sites import BATCH_SHARE
from pyro_vae.inference.traces import PairTrace

__all__ = ["Around", "Subsample", "around_batches", "as_it_is"]

Around = Callable[[Batch], AbstractContextManager[Any]]  # what stands around a run on a batch


class Subsample(Messenger):
    """Scale the sites outside of the data plate by B/N. To stand around whole runs of both programs."""

    def __init__(self, plate: DataPlate, batch_size: int, num_data: int) -> None:
        super().__init__()
        self.plate, self.batch_size, self.num_data = plate, batch_size, num_data

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or self.plate.holds(msg):
            return
        share = self.batch_size / self.num_data
        msg["scale"] = msg["scale"] * share
        msg["infer"][BATCH_SHARE] = share


def as_it_is(x: Batch) -> AbstractContextManager[Any]:
    """Let nothing stand around a run on a batch."""
    return nullcontext()


def around_batches(pair: PairTrace, num_data: int | None) -> Around:
    """Return what has to stand around runs on batches of ``num_data`` data.

    Nothing has to for programs without global latents, and for those that subsample their data themselves.

    Raises
    ------
    ProgramError
        For global latents and data of unknown number.
    """
    plate = pair.plate
    if not pair.global_sites or plate.full_size != plate.size or num_data == pair.length:
        return as_it_is
    if num_data is None:
        raise ProgramError(
            f"site {pair.global_sites[0]!r}: found outside the data plate, with data of unknown number, so that "
            'its weight in a batch is not either; expected data of known number, or pyro.plate("data", size=N, '
            "subsample_size=len(x))"
        )
    return lambda x: Subsample(plate, len(x), num_data)
