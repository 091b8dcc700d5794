"""What can be found wrong before any work starts: a pair that is none, or data that its likelihood does not cover."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.batches import Batches
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.missing import ObservedOnly, unpack
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.sites import Site
from pyro_vae.inference.support import check_site, check_values, covers_all, is_constant, is_masked
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["check_program", "run_to_check"]


def check_program(
    programs: ProgramPair,
    batches: Batches,
    *,
    name: str = "data",
    num_particles: int = 1,
    enumerated: bool = False,
    resumed: bool = False,
    whole_batch: bool = False,
    check_pair: Callable[[PairTrace], None] | None = None,
) -> Tensor | None:
    """Run the pair once on two of the data, and hold all data against the supports of the observed sites.

    Two, since a dimension that belongs to one datum can then hardly pass for that of the data; with ``whole_batch``,
    the first batch, for programs that take no other size. Data that lie on the device are gone through here. Those of a
    loader are checked batch by batch as they are read for the first time; of a run that is ``resumed``, the first batch
    too, which asking for it might use up. ``check_pair`` is called with what the first run left behind.

    Returns
    -------
    Tensor or None
        The data that the pair was run on; ``None`` where that is still to come.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If a value of the data is not finite or lies outside the support of an observed site; the message names both.
    """
    check = _Check(programs, name, num_particles, whole_batch, check_pair, enumerated)
    if batches.resident:
        start = 0
        with seeded(0, programs.placement()[0]):  # binarised pixels and latents are drawn
            for x in batches.in_order():
                check(x, start)
                start += len(x)
        _check_number(start, name)
        return check.first
    if not resumed:
        first = batches.first()
        _check_number(0 if first is None else len(first), name)
        assert first is not None
        check(first, 0)
    batches.check_first_pass(check)
    return check.first


def _check_number(num_data: int, name: str) -> None:
    if num_data == 0:
        raise ValueError(f"{name}: found no data, expected one datum or more")


class _Check:
    """The check of one set of data, batch by batch."""

    def __init__(
        self,
        programs: ProgramPair,
        name: str,
        num_particles: int,
        whole_batch: bool,
        check_pair: Callable[[PairTrace], None] | None,
        enumerated: bool,
    ) -> None:
        self.programs, self.name, self.num_particles = programs, name, num_particles
        self.whole_batch, self.check_pair, self.enumerated = whole_batch, check_pair, enumerated
        self.first: Tensor | None = None
        self.whole: list[Site] = []  # sites that observe the data as they are, whatever these are
        self.others: list[str] = []  # sites that have to be run on them

    @torch.no_grad()
    def __call__(self, x: Tensor, start: int) -> None:
        _check_finite(x, start, self.name)
        with seeded(0, x.device):
            if self.first is None:
                self._begin(x if self.whole_batch else x[:2])
            for site in self.whole:
                data, seen = unpack(self.programs.model, x)
                check_values(site["fn"], data, seen, start, 0, self.name, f"site {site['name']!r}")
            if self.others:
                pair = self._trace(x)
                for site in map(pair.model_sites.__getitem__, self.others):
                    check_site(pair, site, start, self.name)

    def _begin(self, x: Tensor) -> None:
        """Run the pair for the first time."""
        _check_data_shape(self.programs.model, x, self.name)
        pair = self._trace(x)
        if self.check_pair is not None:
            self.check_pair(pair)
        if self.num_particles > 1:  # not as many as data, so that the one cannot pass for the other
            self._trace(x, num_particles=3)
        data, _ = unpack(self.programs.model, x)
        for site in map(pair.model_sites.__getitem__, pair.observed):
            packed = isinstance(bare(self.programs.model), ObservedOnly)  # its masks are those of the data
            if _is_data(site, data) and is_constant(site["fn"]) and (packed or not is_masked(site)):
                self.whole.append(site)
            elif not covers_all(site["fn"]):
                self.others.append(site["name"])
        self.first = x

    def _trace(self, x: Tensor, num_particles: int = 1) -> PairTrace:
        isolated = self.programs.isolated()
        call = functools.partial(trace_pair, isolated, x, num_particles, enumerated=self.enumerated)
        return run_to_check(call, self.programs, x, self.name)


def _check_data_shape(model: StochasticFunction, x: Tensor, name: str) -> None:
    """Compare data with the shape that a packaged model's likelihood is made for."""
    program = bare(model)
    if isinstance(program, ObservedOnly):
        if x.dim() < 2 or x.shape[1] != 2:  # not packed, as it will say itself
            return
        program, x = program.program, x[:, 0]
    if hasattr(program, "data_shape") or not hasattr(program, "recipe"):  # labelled and packed; somebody's own
        return
    expected = getattr(getattr(program, "likelihood", None), "data_shape", None)
    if expected is not None and tuple(x.shape[1:]) != tuple(expected):
        found, wanted = (", ".join(map(str, ("N", *shape))) for shape in (x.shape[1:], expected))
        raise ValueError(f"{name}: found data of shape ({found}), expected ({wanted}) as the likelihood has them")


def run_to_check(call: Callable[[], Any], programs: ProgramPair, x: Tensor, name: str) -> Any:
    """Return ``call()``, made in eval mode; its errors name the data and their shape."""
    try:
        with evaluating(programs.model, programs.guide):
            return call()
    except ProgramError as error:
        shape = ", ".join(map(str, ("N", *x.shape[1:])))
        raise ProgramError(f"{error} ({name} of shape ({shape}))") from error
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        reason = pyro_error_reason(error)
        shape = ", ".join(map(str, ("N", *x.shape[1:])))
        raise ValueError(f"{name}: found data of shape ({shape}), on which the programs fail: {reason}") from error


def _is_data(site: dict[str, Any], x: Tensor) -> bool:
    """Whether a site observes the data, reshaped at most: of what a program makes of them, the values are its own."""
    value = site["value"]
    return value.numel() == x.numel() and torch.equal(value.reshape(x.shape).to(x.dtype), x)


def _check_finite(x: Tensor, start: int, name: str) -> None:
    bad = ~torch.isfinite(x)
    if bad.any():
        where, found = _first(bad, x, start)
        raise ValueError(f"{name}: found the value {found:g} at {where}, expected finite numbers")


def _first(bad: Tensor, x: Tensor, start: int) -> tuple[tuple[int, ...], float]:
    """Where in the data the first ``bad`` entry of a batch is that begins at ``start``, and what is there."""
    row, *rest = bad.nonzero()[0].tolist()
    return (start + row, *rest), x[(row, *rest)].item()
