"""What can be found wrong before any work starts: a pair that is none, or data that its likelihood does not cover."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.arrays import MISSING
from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.batches import Batches
from pyro_vae.data.reading import naming_rows
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.each_datum import check_observed, without_plate
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.latent_support import check_latents
from pyro_vae.inference.missing import ObservedOnly, check_mask, unpack
from pyro_vae.inference.pair import ProgramPair, is_packaged
from pyro_vae.inference.particles import check_way, way_of
from pyro_vae.inference.plates import check_other_size
from pyro_vae.inference.sites import Site
from pyro_vae.inference.support import check_site, check_values, covers_all, is_constant, is_masked
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["PairCheck", "check_program", "run_to_check"]


def check_program(
    programs: ProgramPair,
    batches: Batches,
    *,
    name: str = "data",
    num_particles: int = 1,
    enumerated: bool = False,
    resumed: bool = False,
    each_datum: bool = True,
    shares_globals: bool = False,
    check_pair: Callable[[PairTrace], None] | None = None,
) -> Batch | None:
    """Run the pair once on the first batch, and hold all data against the supports of the observed sites.

    Data that lie on the device are gone through here. Those of a loader are checked batch by batch as they are read for
    the first time; of a run that is ``resumed``, the first batch too, which asking for it might use up. ``check_pair``
    is called with what the first run left behind. ``each_datum`` and ``shares_globals`` are as in
    :func:`~pyro_vae.inference.importance.trace_pair`.

    Returns
    -------
    Tensor, Arguments or None
        The batch that the pair was run on; ``None`` where that is still to come.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If a value of the data is not finite or lies outside the support of an observed site; the message names both.
    """
    check = PairCheck(
        programs,
        name=name,
        num_particles=num_particles,
        num_data=batches.num_data,
        is_cut=batches.cuts_rows,
        options={"enumerated": enumerated, "each_datum": each_datum, "shares_globals": shares_globals},
        check_pair=check_pair,
    )
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
        naming_rows(batches._source, check)(first, batches.first_place)
    batches.check_first_pass(naming_rows(batches._source, check))
    return check.first


def _check_number(num_data: int, name: str) -> None:
    if num_data == 0:
        raise ValueError(f"{name}: found no data, expected one datum or more")


class PairCheck:
    """The check of a pair and of one set of data, batch by batch; the arguments are those of :func:`check_program`."""

    def __init__(
        self,
        programs: ProgramPair,
        *,
        name: str,
        num_particles: int,
        num_data: int | None,
        is_cut: bool,
        options: dict[str, Any] | None = None,
        check_pair: Callable[[PairTrace], None] | None = None,
    ) -> None:
        self.programs, self.name, self.num_particles, self.num_data = programs, name, num_particles, num_data
        self.is_cut, self.check_pair = is_cut, check_pair
        self.options = {"shares_globals": False} if options is None else options
        self.first: Batch | None = None
        self.whole: list[Site] = []  # sites that observe the data as they are, whatever these are
        self.others: list[str] = []  # sites that have to be run on them

    @torch.no_grad()
    def __call__(self, x: Batch, start: int) -> None:
        for values in x.tensors if isinstance(x, Arguments) else [x]:
            _check_finite(values, start, self.name)
        if isinstance(bare(self.programs.model), ObservedOnly) and isinstance(x, Tensor) and x.shape[1:2] == (2,):
            check_mask(x, self.name)
        is_run = self.first is None or bool(self.others)
        with seeded(0, x.device) if is_run else nullcontext():
            if self.first is None:
                self._begin(x)
            for site in self.whole:
                assert isinstance(x, Tensor)
                data, seen = unpack(self.programs.model, x)
                check_values(site["fn"], data, seen, start, 0, self.name, f"site {site['name']!r}")
            if self.others:
                pair = self._trace(x)
                check_latents(pair)
                for site in map(pair.model_sites.__getitem__, self.others):
                    check_site(pair, site, start, self.name)

    def _begin(self, x: Batch) -> None:
        """Run the pair for the first time."""
        if isinstance(x, Tensor):
            _check_data_shape(self.programs.model, x, self.name)
        pair = self._trace(x)
        if pair.plate.dim is None and self.num_data != len(x):
            raise ProgramError(
                f"{self.name}: found {self.num_data or 'an unknown number of'} data in batches of {len(x)}, for "
                f"programs without a plate of the data: {without_plate(pair)}"
            )
        plate = pair.plate
        if self.is_cut and self.num_data != len(x) and plate.dim and len(x) not in (plate.size, plate.full_size):
            raise ProgramError(
                f"{self.name}: found the data plate {plate.name!r} of size {plate.size} for batches of {len(x)}, cut "
                'along the first dimension, expected pyro.plate("data", len(x))'
            )
        if self.is_cut and self.num_data is not None:  # the last batch
            sites = [*pair.guide_sites.values(), *pair.model_sites.values()]
            check_other_size(sites, plate, self.num_data % len(x))
        check_observed(pair)
        check_latents(pair)
        if self.check_pair is not None:
            self.check_pair(pair)
        if self.num_particles > 1:
            self._check_particles(x)
        data = unpack(self.programs.model, x)[0] if isinstance(x, Tensor) else None
        for site in map(pair.model_sites.__getitem__, pair.observed):
            packed = isinstance(bare(self.programs.model), ObservedOnly)  # its masks are those of the data
            if (
                data is not None
                and _is_data(site, data)
                and is_constant(site["fn"])
                and (packed or not is_masked(site))
            ):
                self.whole.append(site)
            elif not covers_all(site["fn"]):
                self.others.append(site["name"])
        self.first = x

    def _check_particles(self, x: Batch) -> None:
        """Hold the weights of several particles against those of single runs."""
        programs, way = self.programs.isolated(), self.programs.vectorize_particles
        if way == "auto":
            way_of(programs, x, self.options["shares_globals"])
        elif way is not False and not is_packaged(self.programs):
            run_to_check(lambda: check_way(programs, x, way), self.programs, x, self.name)

    def _trace(self, x: Batch) -> PairTrace:
        call = functools.partial(trace_pair, self.programs.isolated(), x, **self.options)
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
        is_one = tuple(x.shape) == tuple(expected)
        has_mask = tuple(x.shape[1:]) == (2, *expected)
        is_moved = x.dim() == 4 and (x.shape[3], x.shape[1], x.shape[2]) == tuple(expected)
        raise ValueError(
            f"{name}: found data of shape ({found}), expected ({wanted}) as the likelihood has them"
            + "; a single datum x is given as x[None]" * is_one
            + "; data with the mask of what is observed take pyro_vae.observed_only(model, guide)" * has_mask
            + "; x.permute(0, 3, 1, 2) moves colours from the last place to the first" * is_moved
        )


def run_to_check(call: Callable[[], Any], programs: ProgramPair, x: Batch, name: str) -> Any:
    """Return ``call()``, made in eval mode; its errors name the data and their shape."""
    try:
        with evaluating(programs.model, programs.guide):
            return call()
    except ProgramError as error:
        shape = ", ".join(map(str, ("N", *x.shape[1:])))
        raise ProgramError(f"{error} ({name} of shape ({shape}))") from error
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        reason = pyro_error_reason(error)
        shape = ", ".join(map(str, ("N", *x.shape[1:])))
        raise ValueError(f"{name}: found data of shape ({shape}), on which the programs fail: {reason}") from error


def _is_data(site: dict[str, Any], x: Tensor) -> bool:
    """Whether a site observes the data, reshaped at most: of what a program makes of them, the values are its own."""
    value = site["value"]
    return value.numel() == x.numel() and torch.equal(value.reshape(x.shape).to(x.dtype), x)


def _check_finite(x: Tensor, start: int, name: str) -> None:
    if not x.is_floating_point() or x.sum().isfinite():  # which it is only if all are
        return
    bad = ~torch.isfinite(x)
    if bad.any():
        where, found = _first(bad, x, start)
        missing = MISSING if math.isnan(found) else ""
        raise ValueError(f"{name}: found the value {found:g} at {where}, expected finite numbers{missing}")


def _first(bad: Tensor, x: Tensor, start: int) -> tuple[tuple[int, ...], float]:
    """Where in the data the first ``bad`` entry of a batch is that begins at ``start``, and what is there."""
    row, *rest = bad.nonzero()[0].tolist()
    return (start + row, *rest), x[(row, *rest)].item()
