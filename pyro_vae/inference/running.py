"""Run a pair of programs: draw the latents from the guide, and replay the model on them.

K particles are drawn in one run by a plate of K, left of the programs' own. It broadcasts the sample sites, while the
encoder, which depends on the data alone, still sees each datum once.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch._guards import detect_fake_mode

from pyro_vae.data.batch import Arguments, Batch, call
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.flows.draws import noise_of_draw
from pyro_vae.inference.frozen import with_constant_parameters
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair, root_of
from pyro_vae.inference.plates import PARTICLES, DataPlate, ParticlePlate
from pyro_vae.inference.sites import NOISE, density, random_sites
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.state import generators, set_generators

__all__ = ["Route", "run", "scored_with_constants"]

Route = Callable[..., poutine.Trace]  # of a guide's trace


def scored_with_constants(
    program: StochasticFunction, latents: poutine.Trace, x: Batch, noise: dict[str, Tensor] | None = None
) -> poutine.Trace:
    """Return the trace of a program with constant parameters on given latents, with their densities.

    ``noise`` is that of latents which the program itself has drawn, by name.
    """
    noise = noise or {}
    trace = with_constant_parameters(functools.partial(_scored, program, latents, noise))(x)
    if torch.is_grad_enabled() and detect_fake_mode() is None:
        _check_constants(program, latents, noise, x)
    return trace


_checked: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()  # by what is under a program


def _check_constants(program: StochasticFunction, latents: poutine.Trace, noise: dict[str, Tensor], x: Batch) -> None:
    """Raise ``ProgramError`` if a program has parameters out of reach; once for each program.

    Of constants, the densities of latents without a gradient have none.
    """
    root, called = root_of(program)
    try:
        known = _checked.setdefault(root, set())
        if called in known:
            return
    except TypeError:  # of a kind that cannot be remembered
        known = set()
    given = latents.copy()
    nodes: dict[str, Any] = given.nodes
    for name, node in nodes.items():
        if node["type"] == "sample" and isinstance(node["value"], Tensor):
            nodes[name] = {**node, "value": node["value"].detach()}
    noise = {name: value.detach() for name, value in noise.items()}
    still = x.map(Tensor.detach) if isinstance(x, Arguments) else x.detach()
    before = generators(x.device)
    try:
        trace = with_constant_parameters(functools.partial(_scored, program, given, noise))(still)
    except (ProgramError, ValueError, RuntimeError):  # as of a flow at values that it did not draw
        return
    finally:
        set_generators(before, x.device)
    for name, site in random_sites(trace).items():
        if density(site).requires_grad:
            raise ProgramError(
                f"site {name!r}: found a density with a gradient by parameters that the guide closes over or that an "
                "object keeps, expected the guide to be a module, or a method of it, so that its parameters can be "
                "held constant; gradient='reparam' needs no such thing"
            )
    known.add(called)


def _scored(program: StochasticFunction, latents: poutine.Trace, noise: dict[str, Tensor], x: Batch) -> poutine.Trace:
    """Return the trace of a program on given latents, with their densities, some of which (a flow's) run networks."""
    with _Recall(noise):
        trace = poutine.trace(poutine.replay(functools.partial(call, program), trace=latents)).get_trace(x)
    for site in random_sites(trace).values():
        density(site)
    return trace


class _Recall(Messenger):
    """Leave the noise of given latents with their sites, so that their densities are those of draws."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise:
            msg[NOISE] = self.noise[msg["name"]]


def _noise_in(drawn: poutine.Trace) -> dict[str, Tensor]:
    """Return the noise of a trace's draws, by name, where it is known."""
    found = {name: noise_of_draw(site["fn"], site["value"]) for name, site in random_sites(drawn).items()}
    return {name: noise for name, noise in found.items() if noise is not None}


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
        nodes: dict[str, Any] = given.nodes
        guide = _Recall({name: node[NOISE] for name, node in nodes.items() if NOISE in node})(guide)
    try:
        with particles:
            guide_trace = poutine.trace(guide).get_trace(x)  # draws z from q(z|x)
            latents = guide_trace if route is None else route(guide_trace)
            model_trace = poutine.trace(poutine.replay(model, trace=latents)).get_trace(x)  # p(x, z) of them
            scored_trace = guide_trace
            if constant_guide:
                scored_trace = scored_with_constants(programs.guide, latents, x, _noise_in(guide_trace))
    except ValueError as error:
        if (explained := _explained(error)) is None:
            raise
        raise explained from error
    return PairTrace(model_trace, guide_trace, scored_trace, num_particles, len(x), least)


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
