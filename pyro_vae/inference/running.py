"""Run a pair of programs: draw the latents from the guide, and replay the model on them.

K particles are drawn in one run by a plate of K, left of the programs' own. It broadcasts the sample sites, while the
encoder, which depends on the data alone, still sees each datum once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from pyro import poutine

from pyro_vae.data.batch import Batch, call
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.flows.draws import noise_of_draw, remember
from pyro_vae.inference.frozen import with_constant_parameters
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.plates import PARTICLES, DataPlate, ParticlePlate
from pyro_vae.inference.sites import density, random_sites
from pyro_vae.inference.traces import PairTrace

__all__ = ["NOISE", "Route", "run", "scored_with_constants"]

Route = Callable[..., poutine.Trace]  # of a guide's trace
NOISE = "_noise"  # where a given latent keeps its noise, if the guide has drawn it before


def scored_with_constants(
    program: StochasticFunction, latents: poutine.Trace, x: Batch, drawn: poutine.Trace | None = None
) -> poutine.Trace:
    """Return the trace of a program with constant parameters on given latents, with their densities.

    Where the latents are those of ``drawn``, a trace of the same program, its Gaussians take the noise from there.
    """
    return with_constant_parameters(functools.partial(_scored, program, latents, drawn))(x)


def _scored(
    program: StochasticFunction, latents: poutine.Trace, drawn: poutine.Trace | None, x: Batch
) -> poutine.Trace:
    """Return the trace of a program on given latents, with their densities, some of which (a flow's) run networks."""
    trace = poutine.trace(poutine.replay(functools.partial(call, program), trace=latents)).get_trace(x)
    for name, site in random_sites(trace).items():
        if drawn is not None and name in drawn:
            origin: Any = drawn.nodes[name]
            remember(site["fn"], site["value"], noise_of_draw(origin["fn"], origin["value"]))
        density(site)
    return trace


def run(
    programs: ProgramPair,
    x: Batch,
    num_particles: int = 1,
    *,
    route: Route | None = None,
    constant_guide: bool = False,
    shares_globals: bool = False,
    given: poutine.Trace | None = None,
) -> PairTrace:
    """Run a pair once, with its K particles in a plate, in the caller's parameter store.

    Parameters
    ----------
    programs
        The model and the guide.
    x
        What they are called with.
    num_particles
        K. A single particle runs the programs as they are.
    route, constant_guide
        As in :func:`~pyro_vae.inference.importance.trace_pair`.
    shares_globals
        Draw latents outside of the data plate once for all particles.
    given
        Values of some of the guide's latents.

    Raises
    ------
    ProgramError
        If Pyro finds a mistake in the programs' plates.
    """
    inside = functools.partial(
        _in_plate, programs, x, num_particles, route=route, constant_guide=constant_guide, given=given
    )
    if num_particles == 1:
        return inside()
    nesting = programs.max_plate_nesting
    try:
        pair = inside(nesting=nesting, shares_globals=shares_globals)
        found = pair.max_plate_nesting
    except (ValueError, RuntimeError, IndexError):  # perhaps of particles where the programs have a plate
        found = _nesting(programs, x, given)
        if found <= nesting:
            raise
    if found > nesting:  # the programs have more plates than was said: the particles go left of them
        nesting = found
        pair = inside(nesting=nesting, shares_globals=shares_globals)
    if shares_globals and not _shares_rightly(pair):
        pair = inside(nesting=nesting, shares_globals=True, plate=pair.plate)
    return pair


def _nesting(programs: ProgramPair, x: Batch, given: poutine.Trace | None) -> int:
    """Return how many plates a pair has; 0 where it does not run with one particle either."""
    try:
        return run(programs, x, given=given).max_plate_nesting
    except (ValueError, RuntimeError, IndexError):
        return 0


def _in_plate(
    programs: ProgramPair,
    x: Batch,
    num_particles: int,
    *,
    nesting: int | None = None,
    shares_globals: bool = False,
    plate: DataPlate | None = None,
    route: Route | None,
    constant_guide: bool,
    given: poutine.Trace | None,
) -> PairTrace:
    """Run a pair in a plate of particles that leaves ``nesting`` dimensions to its own plates."""
    least = programs.max_plate_nesting if nesting is None else nesting
    particles: Any = nullcontext()
    if num_particles > 1:
        particles = ParticlePlate(num_particles, -1 - least, len(x), shares_globals, plate)
    model: Any = functools.partial(call, programs.model)
    guide: Any = functools.partial(call, programs.guide)
    if given is not None:
        model, guide = (poutine.replay(program, trace=given) for program in (model, guide))
    try:
        with particles:
            guide_trace = poutine.trace(guide).get_trace(x)  # draws z from q(z|x)
            _recall(given, guide_trace)
            latents = guide_trace if route is None else route(guide_trace)
            model_trace = poutine.trace(poutine.replay(model, trace=latents)).get_trace(x)  # p(x, z) of them
            scored_trace = guide_trace
            if constant_guide:
                scored_trace = scored_with_constants(programs.guide, latents, x, guide_trace)
    except ValueError as error:
        if (explained := _explained(error)) is None:
            raise
        raise explained from error
    return PairTrace(model_trace, guide_trace, scored_trace, num_particles, len(x), least)


def _recall(given: poutine.Trace | None, guide_trace: poutine.Trace) -> None:
    """Let the guide's Gaussians know the noise of given latents, where these come with it."""
    nodes: dict[str, Any] = {} if given is None else given.nodes
    for name, node in nodes.items():
        if NOISE in node and name in guide_trace:
            site: Any = guide_trace.nodes[name]
            remember(site["fn"], site["value"], node[NOISE])


def _shares_rightly(pair: PairTrace) -> bool:
    """Return whether the sites that all particles share are those outside of the data plate."""
    for name, site in (*pair.guide_sites.items(), *pair.model_sites.items()):
        has_particles = PARTICLES in {frame.name for frame in site["cond_indep_stack"]}
        if has_particles == (name in pair.global_sites):
            return False
    return True


def _explained(error: ValueError) -> ProgramError | None:
    """Return an error of Pyro's about plates as one that says what was expected, ``None`` for any other."""
    reason = pyro_error_reason(error)
    if isinstance(error, ProgramError) or "collide" in reason:
        return ProgramError(reason)
    if "Shape mismatch inside plate" in reason:
        return ProgramError(
            f"{reason}; expected dimensions of plates alone; declare those of one datum with .to_event(n)"
        )
    return None
