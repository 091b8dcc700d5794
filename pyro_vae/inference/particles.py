r"""K particles of programs that may not take a dimension of particles.

The log weights :math:`\log w_{kb}` of K particles and B data can be had in three ways.

* A plate of particles broadcasts the programs (``True``). The encoder runs once. Networks meet latents of shape
  ``(K, B, ...)``.
* The data are repeated K times along their plate (``"repeat"``). The programs run on K B data, as they do on B.
* The programs run K times, one particle after the other (``False``). Every program can do that.

Some programs fail in a plate of particles, such as one with ``torch.cat`` of two and three dimensions. Others are wrong
in it and say nothing, such as one with ``softmax(dim=1)``. So ``"auto"`` takes the first of the three ways that gives
the weights of single runs on the same latents. Where these differ by noise of the programs' own, it warns.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from typing import Annotated, Any, Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch._guards import detect_fake_mode

from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.flows.draws import noise_of_draw
from pyro_vae.inference.frozen import Scored
from pyro_vae.inference.global_terms import global_terms
from pyro_vae.inference.joined import JoinedTrace
from pyro_vae.inference.pair import ProgramPair, Ways, is_packaged, numbers_of, parts_of, root_of
from pyro_vae.inference.pairing import check_pair
from pyro_vae.inference.plates import PARTICLES
from pyro_vae.inference.running import Route, run
from pyro_vae.inference.sites import NOISE
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.state import evaluating, generators, set_generators

__all__ = ["VectorizeParticles", "Way", "check_way", "draw", "way_of"]

Way = Literal["auto", "repeat"] | bool
VectorizeParticles = Annotated[Way, "'auto', True, 'repeat' or False"]
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError, NotImplementedError)
_OWN_NOISE = "noise of their own, other log weights of the same latents at each run"
_known: weakref.WeakKeyDictionary[Any, dict[Any, Ways]] = weakref.WeakKeyDictionary()  # by model, then by guide


def draw(
    programs: ProgramPair,
    x: Batch,
    num_particles: int,
    way: Way,
    *,
    route: Route | None = None,
    constant_guide: bool = False,
    shares_globals: bool = False,
) -> PairTrace:
    """Run a pair with K particles in one of the three ways; the other arguments are those of :func:`run`."""
    options: dict[str, Any] = {"route": route, "constant_guide": constant_guide}
    if num_particles == 1 or way is True:
        return run(programs, x, num_particles, shares_globals=shares_globals, **options)
    if way == "repeat":
        part = run(programs, _repeated(x, num_particles), **options)
        if part.plate.dim is None or part.num_data != num_particles * len(x):
            raise ProgramError(
                f"found a data plate of size {part.num_data} for {num_particles * len(x)} data, expected one of size "
                "len(x), for the data to be repeated"
            )
        return JoinedTrace([part], num_particles, len(x), shares_globals)
    parts = [run(programs, x, **options)]
    given = _common_draws(parts[0], shares_globals)
    for k in range(1, num_particles):
        options["route"] = None if route is None else functools.partial(route, index=k)
        parts.append(run(programs, x, given=given, **options))
    return JoinedTrace(parts, num_particles, parts[0].num_data, shares_globals)


def _repeated(x: Batch, times: int) -> Batch:
    """Return K copies of the data, one after the other."""
    if isinstance(x, Arguments):
        return x.map(lambda value: value.repeat(times, *[1] * (value.dim() - 1)))
    return x.repeat(times, *[1] * (x.dim() - 1))


def _common_draws(pair: PairTrace, shares_globals: bool) -> poutine.Trace:
    """Return what is the same for all particles: the rows that a plate has chosen and, if shared, global latents."""
    given = poutine.Trace()
    carries_probability = {**pair.guide_sites, **pair.model_sites}
    for trace in (pair.guide_trace, pair.model_trace):
        for name, node in trace.nodes.items():
            is_shared = shares_globals and name in pair.global_sites and not node["is_observed"]
            if node["type"] == "sample" and name not in given and (name not in carries_probability or is_shared):
                given.add_node(name, **node)
    return given


def way_of(programs: ProgramPair, x: Batch, shares_globals: bool) -> Way:
    """Return how the particles of a pair are drawn: as it says, or as has been found out for ``"auto"``.

    What has been found out is remembered as long as the programs live. Where it is not the plate, one warning says why.
    """
    if programs.vectorize_particles != "auto":
        return programs.vectorize_particles
    if is_packaged(programs):
        return True
    (model, called), (guide, guide_called) = root_of(programs.model), root_of(programs.guide)
    try:
        known = _known.setdefault(model, {})
        key: tuple[Any, ...] = weakref.ref(guide), called, guide_called, programs.max_plate_nesting, parts_of(programs)
        ways, numbers = known.get((shares_globals, *key)), numbers_of(programs)
    except TypeError:  # of a kind that cannot be remembered
        known, key, ways, numbers = {}, (), None, {}
    if ways is not None and (remembered := ways.get(numbers)) is not None:
        return remembered
    if detect_fake_mode() is not None:  # a run without values has none to compare
        found = (each for (shares, *_), each in known.items() if shares == shares_globals)
        return next((way for each in found for way in each.found.values()), True)
    way, reason, has_globals = _find(programs, x, shares_globals)
    for shares in (shares_globals,) if has_globals else (True, False):
        known.setdefault((shares, *key), Ways()).add(numbers, numbers_of(programs), way)
    if reason:
        warnings.warn(f"vectorize_particles: found programs {_told(way, reason)}", UserWarning, stacklevel=2)
    return way


def _told(way: Way, reason: str) -> str:
    if reason == _OWN_NOISE:
        return f"with {reason}, so that nothing tells whether a plate of particles suits them; expected True, or False"
    how = "by repeating the data" if way == "repeat" else "one after the other, which is slower"
    drawn = f"their particles are drawn {how}. To have no warning, say vectorize_particles={way!r}"
    return f"that take no dimension of particles ({reason}); {drawn}"


def check_way(programs: ProgramPair, x: Batch, way: Way) -> None:
    """Raise ``ProgramError`` if the weights of several particles in one run are not those of single runs."""
    with Scored():
        still, single = _single(programs, x)
        reason = _difference(still, x, way, single, False)
    if reason not in (None, _OWN_NOISE):  # which the caller has borne out
        raise ProgramError(
            f"vectorize_particles: found {way!r} and programs that take no dimension of particles ({reason}), expected "
            "programs that do, or False where it is an argument"
        )


@torch.no_grad()
def _find(programs: ProgramPair, x: Batch, shares_globals: bool) -> tuple[Way, str | None, bool]:
    """Return the first way with the weights of single runs, why it is not the plate, and whether there are globals.

    Nothing is moved by it.
    """
    device = programs.placement()[0]
    before = generators(device)
    reason = None
    try:
        with evaluating(programs.model, programs.guide), pyro.validation_enabled(False), Scored():
            try:
                still, single = _single(programs, x)
            except _FAILURES:
                return True, None, True  # the run that follows will say what is wrong
            for way in (True, "repeat"):
                found = _difference(still, x, way, single, shares_globals)
                if found in (None, _OWN_NOISE):
                    return way, found or reason, bool(single.global_sites)
                reason = reason or found
    finally:
        set_generators(before, device)
    return False, reason, bool(single.global_sites)


def _single(programs: ProgramPair, x: Batch) -> tuple[ProgramPair, PairTrace]:
    """Return a pair with other parameters, if it runs on them, and a run of it with one particle."""
    disturbed, still = programs.with_disturbed_parameters(), programs.with_copied_buffers()
    try:
        single = run(disturbed, x)
        if bool(_weights(single).isfinite().all()):
            return disturbed, single
    except _FAILURES:
        pass
    single = run(still, x)
    check_pair(single, enumerated=False)
    return still, single


def _difference(programs: ProgramPair, x: Batch, way: Way, single: PairTrace, shares_globals: bool) -> str | None:
    """Return what is wrong with a way of drawing particles, ``None`` if nothing is."""
    num_particles = 2 if single.num_data == 3 else 3  # not as many as data, so that the one cannot pass for the other
    try:
        pair = draw(programs, x, num_particles, way, shares_globals=shares_globals)
        if pair.num_data != single.num_data:
            return f"weights of {pair.num_data} data, not of {single.num_data}"
        found = _weights(pair)
    except _FAILURES as error:
        return next(iter(pyro_error_reason(error).splitlines()), type(error).__name__)
    unknown = "weights that cannot be compared" if way == "repeat" else None  # which a program has to bear out
    try:
        first, again, last = (
            _weights(run(programs, x, given=_particle(pair, single, k)))[0] for k in (0, 0, num_particles - 1)
        )
    except _FAILURES:
        return unknown  # latents without a density at given values: there is nothing to compare
    if not _same(first, again):
        are_drawn = set(single.model_sites) <= {*single.guide_sites, *single.observed}  # else by the model, at each run
        return unknown or (_OWN_NOISE if are_drawn else None)
    for expected, particle in ((first, found[0]), (last, found[-1])):
        if not _same(expected, particle):
            return f"other log weights, by up to {(expected - particle).abs().max().item():.2g} nats"
    return None


def _weights(pair: PairTrace) -> Tensor:
    """Return the terms of all sites side by side, ``(K, B, sites)``; a global one is the same for all data."""
    terms = list(pair.terms().values())
    terms += [term[:, None].expand_as(terms[0]) for term in global_terms(pair).values()]
    return torch.stack(terms, -1)


def _same(a: Tensor, b: Tensor) -> bool:
    tolerance = 200 * torch.finfo(a.dtype).eps
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=5 * tolerance, equal_nan=True)


def _particle(pair: PairTrace, single: PairTrace, k: int) -> poutine.Trace:
    """Return the draws of particle k in the shapes of a single run."""
    given = poutine.Trace()
    own: dict[str, Any] = {**single.model_trace.nodes, **single.guide_trace.nodes}
    for name, node in _common_draws(pair, shares_globals=False).nodes.items():
        value: Any = node["value"]
        if name in own and value.shape == own[name]["value"].shape:  # else the rows of a plate of repeated data
            given.add_node(name, **node)
    for name, site in pair.guide_sites.items():
        value, shape = site["value"], single.guide_sites[name]["value"].shape
        cut: Any = {**site, "value": _of_particle(pair, single, site, value, k).reshape(shape)}
        if (noise := noise_of_draw(site["fn"], value)) is not None:  # of a vector, but perhaps with more entries
            cut[NOISE] = _of_particle(pair, single, site, noise, k).reshape(*shape[:-1], -1)
        given.add_node(name, **cut)
    return given


def _of_particle(pair: PairTrace, single: PairTrace, site: Any, value: Tensor, k: int) -> Tensor:
    """Return the rows of particle k of what a site has drawn, or of its noise."""
    if PARTICLES in {frame.name for frame in site["cond_indep_stack"]}:
        return value[k]
    if isinstance(pair, JoinedTrace) and pair.plate.dim is not None and pair.plate.holds(site):
        axis = value.dim() - site["fn"].event_dim + pair.plate.dim
        return value.narrow(axis, k * single.num_data, single.num_data)
    return value
