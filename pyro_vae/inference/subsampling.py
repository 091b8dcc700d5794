r"""Batches as subsamples of the data, for programs with global latents.

A batch of B out of N data tells B/N of what all data tell of a global latent W, so its term counts B/N in a batch and
once in a pass over the data,

.. math:: \frac1N \log\frac{p(x, z, W)}{q(z, W|x)} \approx \frac1B \Bigl[\sum_{b=1}^B \log w_b
          + \frac{B}{N} \log\frac{p(W)}{q(W)}\Bigr] .

That is what ``pyro.plate("data", N, subsample_size=B)`` means, but for the common factor N/B. Programs that open
``pyro.plate("data", len(x))`` know nothing of N; here they are told.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.data.batch import Batch
from pyro_vae.errors import ProgramError
from pyro_vae.inference.plates import DataPlate
from pyro_vae.inference.sites import BATCH_SHARE, inner_scale, unannealed_scale
from pyro_vae.inference.traces import PairTrace

__all__ = ["Around", "Subsample", "around_batches", "as_it_is"]


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


class Around:
    """What stands around runs on batches.

    Parameters
    ----------
    pair
        A run on the first batch; ``None`` for programs that run as they are.
    num_data
        N, where the global latents of the programs have to be weighed by a batch's share of N data.
    scaled_to
        N, where the programs have a scale of their own that says so.
    """

    def __init__(
        self, pair: PairTrace | None = None, num_data: int | None = None, scaled_to: int | None = None
    ) -> None:
        self.plate, self.num_data, self.scaled_to = None if pair is None else pair.plate, num_data, scaled_to
        self.length = 0 if pair is None else pair.length

    def __call__(self, x: Batch) -> AbstractContextManager[Any]:
        """Return what stands around a run on a batch."""
        if self.plate is None or self.num_data is None:
            return nullcontext()
        return Subsample(self.plate, len(x), self.num_data)

    def num_in_loss(self, x: Batch) -> float:
        """Return how many data the loss of a batch is one of: N, where its plate or its scale says so."""
        if self.scaled_to is not None:
            return self.scaled_to
        if self.plate is None or self.plate.dim is None or self.plate.full_size == self.length:
            return len(x)
        if self.plate.full_size == self.plate.size:
            return len(x) * self.plate.size / self.length
        return self.plate.full_size


as_it_is = Around()


def _is_scaled_by_hand(pair: PairTrace, num_data: int) -> bool:
    """Return whether the data have the scale N/B already, relative to global latents, by ``poutine.scale``.

    Raises
    ------
    ProgramError
        If they have another one, which may be meant as a subsample or as annealing.
    """
    sites = {**pair.guide_sites, **pair.model_sites}
    own = [unannealed_scale(sites[name], pair.plate, pair.scale) for name in pair.global_sites]
    of_data = pair.scale * pair.plate.size / pair.plate.full_size
    if any(isinstance(scale, Tensor) and scale.numel() > 1 for scale in (*own, of_data)):
        return False
    ratios = [
        float(of_data) / (float(scale) / inner_scale(sites[name], pair.plate))
        for name, scale in zip(pair.global_sites, own, strict=True)
    ]
    for name, ratio in zip(pair.global_sites, ratios, strict=True):
        if not any(math.isclose(ratio, fair, rel_tol=1e-4) for fair in (1.0, num_data / pair.plate.size)):
            raise ProgramError(
                f"site {name!r}: found outside the data plate, whose sites have {ratio:g} times its scale, expected "
                "the same, or that of a subsample, N/B; pyro_vae.anneal_kl weighs the terms of latents"
            )
    return not math.isclose(ratios[0], 1.0, rel_tol=1e-4)


def _says_number(pair: PairTrace, num_data: int | None) -> bool:
    """Return whether the data have the scale N/B, by a plate or by ``poutine.scale``."""
    scale = pair.scale
    if num_data in (None, pair.plate.size) or (isinstance(scale, Tensor) and scale.numel() > 1):
        return False
    return math.isclose(float(scale), num_data / pair.plate.size, rel_tol=1e-4)


def around_batches(pair: PairTrace, num_data: int | None) -> Around:
    """Return what has to stand around runs on batches of ``num_data`` data, ``None`` for an unknown number.

    Nothing has to for programs without global latents, and for those that subsample their data themselves. Where the
    scale of the data says how many there are, their loss is divided by that number.

    Raises
    ------
    ProgramError
        For global latents and data of unknown number.
    """
    plate = pair.plate
    says_itself = plate.full_size not in (plate.size, pair.length)  # how many data there are
    if not pair.global_sites:
        return Around(pair, scaled_to=num_data if _says_number(pair, num_data) else None)
    if num_data == plate.full_size or says_itself:
        return Around(pair)
    if num_data is None:
        raise ProgramError(
            f"site {pair.global_sites[0]!r}: found outside the data plate, with data of unknown number, so that "
            'its weight in a batch is not either; expected data of known number, or pyro.plate("data", size=N, '
            "subsample_size=len(x))"
        )
    return Around(pair, scaled_to=num_data) if _is_scaled_by_hand(pair, num_data) else Around(pair, num_data)
