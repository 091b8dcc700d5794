r"""Run the two programs and weigh what they drew.

.. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb}|x_b), \qquad z_{kb} \sim q(z|x_b)

This ``(K, B)`` tensor, in nats, is the one quantity that the package rests on. Bounds are reductions of it over the
particles k, the marginal likelihood is its log-mean-exp, diagnostics read its terms site by site.

All K particles are drawn in one run: a plate of K, left of the programs' own, broadcasts the sample sites, while the
encoder, which depends on the data alone, still sees each datum once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import ProgramError, failing_on, pyro_error_reason
from pyro_vae.inference.frozen import with_constant_parameters
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.pairing import check_pair
from pyro_vae.inference.traces import PairTrace, density, random_sites
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.exclusive import exclusive

__all__ = ["log_weights", "scored_with_constants", "trace_pair", "weights_of"]


def scored_with_constants(program: StochasticFunction, latents: poutine.Trace, x: Tensor) -> poutine.Trace:
    """Return the trace of a program with constant parameters on given latents, with their densities."""
    return with_constant_parameters(functools.partial(_scored, program, latents))(x)


def _scored(program: StochasticFunction, latents: poutine.Trace, x: Tensor) -> poutine.Trace:
    """Return the trace of a program on given latents, with their densities, some of which (a flow's) run networks."""
    trace = poutine.trace(poutine.replay(program, trace=latents)).get_trace(x)
    for site in random_sites(trace).values():
        density(site)
    return trace


def trace_pair(
    programs: ProgramPair,
    x: Tensor,
    num_particles: int = 1,
    *,
    enumerated: bool = False,
    route: Callable[[poutine.Trace], poutine.Trace] | None = None,
    constant_guide: bool = False,
) -> PairTrace:
    """Draw ``num_particles`` latents a datum from the guide and replay the model on them, in the caller's param store.

    Parameters
    ----------
    programs
        The model and the guide. A single particle runs them as they are; more run inside one more plate, left of their
        own, so latents arrive as ``(K, B, ...)``.
    x
        Data ``(B, *data_shape)``.
    enumerated
        Let the guide lack latents that the model marks for enumeration, as Pyro's TraceEnum_ELBO does. The weights of
        such a pair mean nothing.
    route
        Takes the guide's trace to one of the same latents, through which the gradient takes another path; of
        :class:`~pyro_vae.objectives.gradients.Path`, for ``gradient="dreg"``.
    constant_guide
        Score the latents under the guide with constant parameters, for ``gradient="stl"`` and ``"dreg"``.

    Raises
    ------
    ProgramError
        If model and guide do not have the same latents, all inside the data plate of size B, or have dimensions that
        belong to no plate.
    ValueError
        If ``num_particles`` is not a positive integer.
    """
    dim = -1 - programs.max_plate_nesting
    try:
        with (
            exclusive("log_weights", brief=True),  # before the plate, which is made by a statement of Pyro
            pyro.plate("num_particles_vectorized", num_particles, dim=dim) if num_particles > 1 else nullcontext(),
        ):
            guide_trace = poutine.trace(programs.guide).get_trace(x)  # draws z from q(z|x)
            latents = guide_trace if route is None else route(guide_trace)
            model_trace = poutine.trace(poutine.replay(programs.model, trace=latents)).get_trace(x)  # p(x, z) of them
            scored_trace = guide_trace
            if constant_guide:
                scored_trace = scored_with_constants(programs.guide, latents, x)
    except ValueError as error:
        if (explained := _explained(error, programs.max_plate_nesting)) is None:
            raise
        raise explained from error
    pair = PairTrace(model_trace, guide_trace, scored_trace, num_particles, len(x), programs.max_plate_nesting)
    check_pair(pair, enumerated)
    return pair


def _explained(error: ValueError, max_plate_nesting: int) -> ProgramError | None:
    """Return an error of Pyro's about plates as one that says what was expected, ``None`` for any other."""
    reason = pyro_error_reason(error)
    if isinstance(error, ProgramError):
        return ProgramError(reason)
    if "collide" in reason:
        return ProgramError(
            f"found another plate at dim={-1 - max_plate_nesting}, where the particles go, expected max_plate_nesting "
            f"(now {max_plate_nesting}) to count all of the program's own plates: {reason}"
        )
    if "Shape mismatch inside plate" in reason:
        return ProgramError(
            f"{reason}; expected dimensions of plates alone; declare those of one datum with .to_event(n)"
        )
    return None


@checked
def log_weights(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: Tensor,
    num_particles: PositiveInteger = 1,
    *,
    max_plate_nesting: PositiveInteger = 1,
) -> Tensor:
    r"""Return the log importance weights of every datum under every particle.

    .. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb}|x_b), \qquad z_{kb} \sim q(z|x_b)

    They are the same whatever scale the programs run under (subsampling plates, ``poutine.scale``); masks count.
    Nothing is left in Pyro's parameter store, and only what a bare ``pyro.param`` keeps there is read from it.

    Parameters
    ----------
    model, guide
        A pair of programs: ``model(x)`` and ``guide(x)``, all sites inside ``pyro.plate("data", len(x), dim=-1)``.
    x
        Data ``(B, *data_shape)``.
    num_particles
        K, drawn in one vectorised run: for K > 1 latents arrive in the model as ``(K, B, ...)``.
    max_plate_nesting
        How many plates the programs have, the data plate included.

    Returns
    -------
    Tensor
        ``(K, B)``, nats, differentiable with respect to the parameters of both programs.

    Raises
    ------
    ProgramError
        If the two do not form a pair; the message names the site.
    ValueError
        If ``num_particles`` is not a positive integer.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> log_weights(vae.model, vae.guide, torch.zeros(3, 4), num_particles=10).shape
    torch.Size([10, 3])
    """
    with failing_on("x", x):
        return weights_of(ProgramPair(model, guide, max_plate_nesting).isolated(), x, num_particles)


def weights_of(programs: ProgramPair, x: Tensor, num_particles: int) -> Tensor:
    """Return what :func:`log_weights` does, of arguments that have been checked."""
    return torch.stack(list(trace_pair(programs, x, num_particles).terms().values())).sum(0)
