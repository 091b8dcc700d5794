r"""Run the two programs and weigh what they drew.

.. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb}|x_b), \qquad z_{kb} \sim q(z|x_b)

This ``(K, B)`` tensor, in nats, is the one quantity that the package rests on. Bounds are reductions of it over the
particles k, the marginal likelihood is its log-mean-exp, diagnostics read its terms site by site.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

from pyro_vae.data.batch import Batch
from pyro_vae.errors import ProgramError, failing_on
from pyro_vae.inference.each_datum import check_each_datum, check_whole_plates
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.pairing import check_batched, check_pair, misfit_of_latents
from pyro_vae.inference.particles import VectorizeParticles, draw, way_of
from pyro_vae.inference.running import Route
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.exclusive import exclusive

__all__ = ["log_weights", "trace_pair", "weights_of"]


def trace_pair(
    programs: ProgramPair,
    x: Batch,
    num_particles: int = 1,
    *,
    enumerated: bool = False,
    route: Route | None = None,
    constant_guide: bool = False,
    shares_globals: bool = False,
    each_datum: bool = True,
) -> PairTrace:
    """Draw ``num_particles`` latents a datum from the guide and replay the model on them, in the caller's param store.

    Parameters
    ----------
    programs
        The model and the guide.
    x
        Data ``(B, *data_shape)``, or all arguments of the programs.
    enumerated
        Let the guide lack latents that the model marks for enumeration, as Pyro's TraceEnum_ELBO does. The weights of
        such a pair mean nothing.
    route
        Takes the guide's trace to one of the same latents, through which the gradient takes another path; of
        :class:`~pyro_vae.objectives.gradients.Path`, for ``gradient="dreg"``.
    constant_guide
        Score the latents under the guide with constant parameters, for ``gradient="stl"`` and ``"dreg"``.
    shares_globals
        Draw latents outside of the data plate once for all particles, for bounds that are not linear in their weights.
        Refuse plates that draw a subsample of what belongs to one datum.
    each_datum
        Refuse programs whose terms do not all belong to one of the data in x.

    Raises
    ------
    ProgramError
        If model and guide do not have the same latents, or have dimensions that belong to no plate.
    ValueError
        If ``num_particles`` is not a positive integer.
    """
    with exclusive("log_weights", brief=True):  # the plate of particles too is made by a statement of Pyro
        way = way_of(programs, x, shares_globals) if num_particles > 1 else True
        options: Any = {"route": route, "constant_guide": constant_guide, "shares_globals": shares_globals}
        try:
            pair = draw(programs, x, num_particles, way, **options)
        except (ValueError, RuntimeError, TypeError) as error:
            if detect_fake_mode() is None and (misfit := misfit_of_latents(programs, x)) is not None:
                raise ProgramError(misfit) from error
            raise
    check_pair(pair.parts[0], enumerated)
    if each_datum:
        check_each_datum(pair.parts[0])
    elif shares_globals:
        check_whole_plates(pair.parts[0])
    return pair


@checked
def log_weights(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: Batch,
    num_particles: PositiveInteger = 1,
    *,
    max_plate_nesting: PositiveInteger = 1,
    vectorize_particles: VectorizeParticles = "auto",
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
        Data ``(B, *data_shape)``, or the :class:`~pyro_vae.data.batch.Arguments` of the programs.
    num_particles
        K, the number of latents drawn for each datum.
    max_plate_nesting
        How many plates the programs have at least, the data plate included.
    vectorize_particles
        How the particles are drawn, see :mod:`pyro_vae.inference.particles`: ``True``, in one run that latents
        ``(K, B, ...)`` arrive in; ``"repeat"``, in one run on the data repeated K times; ``False``, in K runs.
        ``"auto"`` takes the first of them that these programs can do, and warns if it is not the first.

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
    check_batched(model, x, "x")
    with failing_on("x", x):
        programs = ProgramPair(model, guide, max_plate_nesting, vectorize_particles)
        return weights_of(programs.isolated(), x, num_particles)


def weights_of(programs: ProgramPair, x: Batch, num_particles: int) -> Tensor:
    """Return what :func:`log_weights` does, of arguments that have been checked."""
    return torch.stack(list(trace_pair(programs, x, num_particles).terms().values())).sum(0)
