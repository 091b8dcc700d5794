r"""Batches as subsamples of the data, for programs with global latents.

A batch of B out of N data tells B/N of what all data tell of a global latent W, so its term counts B/N in a batch and
once in a pass over the data,

.. math:: \frac1N \log\frac{p(x, z, W)}{q(z, W|x)} \approx \frac1B \Bigl[\sum_{b=1}^B \log w_b
          + \frac{B}{N} \log\frac{p(W)}{q(W)}\Bigr] .

That is what ``pyro.plate("data", N, subsample_size=B)`` means, but for the common factor N/B. Programs that open
``pyro.plate("data", len(x))`` know nothing of N; here they are told.
"""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_vae.inference.plates import DataPlate
from pyro_vae.inference.traces import PairTrace

__all__ = ["Subsample", "subsample_of"]


class Subsample(Messenger):
    """Scale the sites outside of the data plate by B/N. To stand around whole runs of both programs."""

    def __init__(self, plate: DataPlate, num_data: int) -> None:
        super().__init__()
        self.plate, self.num_data = plate, num_data

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        frames = list(msg["cond_indep_stack"])
        for index, frame in enumerate(frames):
            if self.plate.is_frame(frame):
                frames[index] = frame._replace(full_size=self.num_data)
                msg["cond_indep_stack"] = tuple(frames)
                return
        msg["scale"] = msg["scale"] * (self.plate.size / self.num_data)


def subsample_of(pair: PairTrace, num_data: int | None) -> Subsample | None:
    """Return what has to stand around runs on batches of ``num_data`` data, ``None`` where nothing has to.

    Nothing has to for programs without global latents, and for those that subsample their data themselves.
    """
    plate = pair.plate
    if not pair.global_sites or plate.full_size != plate.size or num_data is None:
        return None
    return Subsample(plate, num_data)
