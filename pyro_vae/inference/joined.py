"""Several runs of a pair as one: their terms side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

from pyro_vae.errors import ProgramError
from pyro_vae.inference.traces import PairTrace

__all__ = ["JoinedTrace"]

_Result = TypeVar("_Result")


class JoinedTrace(PairTrace):
    """Runs that together hold K particles of B data: K runs of one particle, or one on the data repeated K times.

    Sites, plates and scales are those of the first run; terms are those of all.
    """

    _parts: list[PairTrace]
    _num_data: int
    _shares_globals: bool

    def __init__(self, parts: list[PairTrace], num_particles: int, num_data: int, shares_globals: bool) -> None:
        first = parts[0]
        traces = first.model_trace, first.guide_trace, first.scored_trace
        super().__init__(*traces, num_particles, first.length * num_data // first.num_data, first.least_plate_nesting)
        self.__dict__.update(_parts=parts, _num_data=num_data, _shares_globals=shares_globals)

    @property
    def parts(self) -> list[PairTrace]:
        return self._parts

    @property
    def num_data(self) -> int:
        return self._num_data

    def over_particles(self, terms: Callable[[PairTrace], _Result]) -> _Result:
        return self._side_by_side([terms(part) for part in self.parts])

    def _side_by_side(self, found: list[Any]) -> Any:
        """Join ``(1, B, ...)`` of K runs, or split ``(1, K B, ...)`` of one."""
        if isinstance(found[0], dict):
            return {name: self._side_by_side([terms[name] for terms in found]) for name in found[0]}
        if not isinstance(found[0], Tensor):
            return found[0]
        joined = torch.cat(found)
        return joined.reshape(self.num_particles, self.num_data, *joined.shape[2:])

    def over_globals(self, terms: Callable[[PairTrace], _Result]) -> _Result:
        return self._one_after_the_other([terms(part) for part in self.parts])

    def _one_after_the_other(self, found: list[Any], name: str = "") -> Any:
        """Join ``(1,)`` of K runs, or keep the one that they share."""
        if isinstance(found[0], dict):
            return {name: self._one_after_the_other([terms[name] for terms in found], name) for name in found[0]}
        if found[0] is None or not self._shares_globals:
            return found[0] if found[0] is None else torch.cat(found)
        if name in self.observed:  # a term of data
            _check_shared(found, name)
        return found[0]

    @property
    def common_scale(self) -> Any:
        scale = self.parts[0].common_scale
        repeats = self.parts[0].num_data // self.num_data
        if isinstance(scale, Tensor) and scale.dim():
            scale = scale.expand(self.parts[0].num_data)[: self.num_data]
        return scale * repeats if self.plate.full_size != self.plate.size else scale  # of a subsample, which has grown

    def weight(self, name: str) -> Any:
        return self.over_particles(lambda part: part.weight(name))

    def score(self, name: str) -> Tensor:
        return self.over_particles(lambda part: part.score(name))

    def log_q(self, scaled: bool = False) -> Tensor:
        return self.over_particles(lambda part: part.log_q(scaled))

    def terms(self, scaled: bool = False) -> dict[str, Tensor]:
        return self.over_particles(lambda part: part.terms(scaled))


def _check_shared(found: list[Tensor], name: str) -> None:
    """Raise ``ProgramError`` for a term of all data that differs between particles, and so depends on local latents."""
    if detect_fake_mode() is not None:  # without values; the programs were checked with them
        return
    terms = torch.cat(found)
    tolerance = 200 * torch.finfo(terms.dtype).eps
    if not torch.allclose(terms, terms[:1].expand_as(terms), rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ProgramError(
            f"site {name!r}: found outside the data plate, with log-probabilities that differ between particles of the "
            "same global latents, expected one that depends on no latent inside the data plate; ELBO takes such sites"
        )
