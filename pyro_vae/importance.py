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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.handlers import Program, with_constant_parameters
from pyro_vae.state import isolated

__all__ = ["PairTrace", "log_weights", "random_sites", "trace_pair"]

Site = dict[str, Any]


_UNSIZED = -1  # what Pyro calls the size of a plate that was given none


@dataclass(frozen=True)
class PairTrace:
    """One run of a pair on ``num_data`` data with ``num_particles`` particles, and the terms of its weights.

    ``scored_trace`` holds the densities of the guide that enter the weights: the guide's own trace, or one of the same
    latents under the guide with constant parameters.
    """

    model_trace: poutine.Trace
    guide_trace: poutine.Trace
    scored_trace: poutine.Trace
    num_particles: int
    num_data: int
    max_plate_nesting: int

    @cached_property
    def model_sites(self) -> dict[str, Site]:
        return random_sites(self.model_trace)

    @cached_property
    def guide_sites(self) -> dict[str, Site]:
        return random_sites(self.guide_trace)

    @cached_property
    def scored_sites(self) -> dict[str, Site]:
        return random_sites(self.scored_trace)

    @cached_property
    def data_dim(self) -> int:
        """Where the data's plate is: the one named ``"data"``, or else the last."""
        if self.max_plate_nesting == 1:
            return -1
        sites = (*self.guide_sites.values(), *self.model_sites.values())
        frames = [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
        return next((frame.dim for frame in frames if frame.name == "data"), -1)

    @property
    def latents(self) -> list[str]:
        """The names of the model's latent sites, in its order."""
        return [name for name, site in self.model_sites.items() if not site["is_observed"]]

    @property
    def observed(self) -> list[str]:
        """The names of the model's observed sites, in its order."""
        return [name for name, site in self.model_sites.items() if site["is_observed"]]

    @property
    def scale(self) -> Any:
        """The scale common to the program: the one its observed site runs under (a number or a tensor)."""
        return self.model_sites[self.observed[0]]["scale"]

    def relative_scale(self, site: Site) -> Any:
        """The scale of a site relative to the common one (a number or a tensor): the weight that annealing gives it."""
        scale, common = site["scale"], self.scale
        if scale is common or (isinstance(scale, float) and isinstance(common, float) and scale == common):
            return 1.0
        return scale / common

    @property
    def is_annealed(self) -> bool:
        """Whether a latent site has a scale of its own."""
        latents = (*self.scored_sites.values(), *map(self.model_sites.__getitem__, self.latents))
        return any(isinstance(r := self.relative_scale(site), Tensor) or r != 1.0 for site in latents)

    def per_datum(self, value: Tensor, site: Site, scaled: bool = False) -> Tensor:
        """Sum what a site gave over all dimensions but the particles' and the data's, to ``(K, B)``; masks count.

        With ``scaled``, it is weighed by the site's scale relative to the common one; that is KL annealing.
        """
        value = scale_and_mask(value, scale=self.relative_scale(site) if scaled else 1.0, mask=site["mask"])
        num_dims = self.max_plate_nesting + 1
        if value.dim() > num_dims:
            raise ProgramError(
                f"site {site['name']!r}: found a log-probability of shape {tuple(value.shape)}, expected at most "
                f"{num_dims} dimensions, the data's plate last; declare dimensions of one datum with .to_event(n), or "
                "pass max_plate_nesting if the program has further plates"
            )
        return self._flat(value, num_dims).sum(-1).expand(self.num_particles, self.num_data)

    def per_unit(self, value: Tensor, site: Site, num_unit_dims: int, scaled: bool = False) -> Tensor:
        """Flatten what the units in the last dimensions gave to ``(K, B, U)``, further plates included; masks count."""
        scale = self.relative_scale(site) if scaled else 1.0
        mask, weight = (_with_dims(factor, num_unit_dims) for factor in (site["mask"], scale))
        value = self._flat(scale_and_mask(value, weight, mask), self.max_plate_nesting + 1 + num_unit_dims)
        return value.expand(self.num_particles, self.num_data, -1)

    def _flat(self, value: Tensor, num_dims: int) -> Tensor:
        """``(K or 1, *plates, *units)``, the data's plate among them, to ``(K or 1, B or 1, everything else)``."""
        value = value.reshape((1,) * (num_dims - value.dim()) + value.shape)
        value = value.movedim(self.max_plate_nesting + 1 + self.data_dim, 1)
        return value.flatten(2) if value.dim() > 2 else value[..., None]

    def log_prob(self, site: Site, scaled: bool = False) -> Tensor:
        """The log-probability of a site's value given its parents, ``(K, B)``, nats."""
        return self.per_datum(_density(site), site, scaled)

    def log_q(self, scaled: bool = False) -> Tensor:
        """The log-probability of the latents under the guide, ``(K, B)``, nats."""
        return torch.stack([self.log_prob(site, scaled) for site in self.scored_sites.values()]).sum(0)

    def terms(self, scaled: bool = False) -> dict[str, Tensor]:
        """What each site adds to the log weight, ``(K, B)``: log p of an observed one, log p - log q of a latent."""
        terms = {name: self.log_prob(site, scaled) for name, site in self.model_sites.items()}
        for name, site in self.scored_sites.items():
            log_q = self.log_prob(site, scaled)
            terms[name] = terms[name] - log_q if name in terms else -log_q
        return terms


def _with_dims(value: Any, num_dims: int) -> Any:
    """A mask or scale of a site's batch shape, beside ``num_dims`` dimensions of its event."""
    return value[(..., *[None] * num_dims)] if isinstance(value, Tensor) and value.dim() else value


def random_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites of a trace that carry probability: no subsampling indices, no deterministic values."""
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def _density(site: Site) -> Tensor:
    """The log-probability of a site's value as its distribution gives it, computed once."""
    if "unscaled_log_prob" not in site:  # Pyro's own name for it
        try:
            site["unscaled_log_prob"] = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        except (KeyError, NotImplementedError) as error:  # a flow that knows no inverse, at a value it did not draw
            raise ProgramError(
                f"site {site['name']!r}: found {site['fn']}, which has no density at a given value, expected one "
                f"whose transforms can be inverted: {error}"
            ) from error
    return site["unscaled_log_prob"]


def _scored(program: Program, latents: poutine.Trace, x: Tensor) -> poutine.Trace:
    """The trace of a program on given latents, with their densities, some of which (a flow's) run networks as well."""
    trace = poutine.trace(poutine.replay(program, trace=latents)).get_trace(x)
    for site in random_sites(trace).values():
        _density(site)
    return trace


def _check_pair(pair: PairTrace, enumerated: bool) -> None:
    in_guide = {
        name
        for name, site in pair.guide_sites.items()
        if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }
    in_model = {name for name in pair.latents if not (enumerated and _is_enumerated(pair.model_sites[name]))}
    for name in sorted(in_guide - in_model):
        what = "observes it" if name in pair.model_sites else f"has the latent sites {sorted(in_model)}"
        raise ProgramError(
            f"site {name!r}: found in the guide, but the model {what}; expected the same latents in both"
        )
    for name in sorted(in_model - in_guide):
        raise ProgramError(
            f"site {name!r}: found in the model, but the guide has the latent sites {sorted(in_guide)}; expected the "
            "same latents in both"
        )
    for program, sites in (("guide", pair.guide_sites), ("model", pair.model_sites)):  # the model replays the guide
        for name, site in sites.items():
            plates = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            sizes = [frame.size for frame in plates if frame.dim == pair.data_dim]
            if not sizes:
                raise ProgramError(
                    f"site {name!r}: found outside the data plate of the {program}, expected inside "
                    'pyro.plate("data", len(x), dim=-1)'
                )
            if sizes[0] not in (pair.num_data, _UNSIZED):
                raise ProgramError(
                    f"site {name!r}: found in a data plate of size {sizes[0]} in the {program}, expected one of size "
                    f"len(x) = {pair.num_data}"
                )
            _check_shape(pair, site, program)
    if not pair.observed:
        raise ProgramError("found no observed site in the model, expected one such as pyro.sample('x', ..., obs=x)")


def _check_shape(pair: PairTrace, site: Site, program: str) -> None:
    """Each dimension of a site's log-probability belongs to a plate; those of one datum belong to its event."""
    plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    for dim, frame in plates.items():
        if -dim > pair.max_plate_nesting + (pair.num_particles > 1):
            raise ProgramError(
                f"site {site['name']!r}: found in the plate {frame.name!r} at dim={dim} of the {program}, expected "
                f"max_plate_nesting (now {pair.max_plate_nesting}) to count all of the program's own plates"
            )
    event_shape, value_shape = tuple(site["fn"].event_shape), tuple(site["value"].shape)
    num_batch_dims = len(value_shape) - len(event_shape)
    try:
        shape = torch.broadcast_shapes(site["fn"].batch_shape, value_shape[:num_batch_dims])
    except RuntimeError:
        shape = None
    if shape is None or num_batch_dims < 0 or value_shape[num_batch_dims:] != event_shape:
        raise ProgramError(
            f"site {site['name']!r}: found a value of shape {value_shape} in the {program}, expected one of a "
            f"distribution of batch shape {tuple(site['fn'].batch_shape)} and event shape {event_shape}"
        )
    if plates[pair.data_dim].size == _UNSIZED and (
        len(shape) < -pair.data_dim or shape[pair.data_dim] != pair.num_data
    ):
        raise ProgramError(
            f"site {site['name']!r}: found a log-probability of shape {tuple(shape)} in a data plate without a size in "
            f'the {program}, expected one for each of {pair.num_data} data, or pyro.plate("data", len(x), dim=-1)'
        )
    if any(size != 1 and dim - len(shape) not in plates for dim, size in enumerate(shape)):
        raise ProgramError(
            f"site {site['name']!r}: found a log-probability of shape {tuple(shape)} in the {program}, expected "
            f"dimensions of plates alone, here {sorted(plates)}; declare those of one datum with .to_event(n)"
        )


def _is_enumerated(site: Site) -> bool:
    return site["infer"].get("enumerate") is not None


def trace_pair(
    model: Program,
    guide: Program,
    x: Tensor,
    num_particles: int = 1,
    *,
    max_plate_nesting: int = 1,
    enumerated: bool = False,
    route: Callable[[poutine.Trace], poutine.Trace] | None = None,
    constant_guide: bool = False,
) -> PairTrace:
    """Draw ``num_particles`` latents a datum from the guide and replay the model on them, in the caller's param store.

    Parameters
    ----------
    model, guide
        The programs, called with ``x``. A single particle runs them as they are; more run inside one more plate, left
        of ``max_plate_nesting`` plates (1: the data's alone), so latents arrive as ``(K, B, ...)``.
    x
        Data ``(B, *data_shape)``.
    enumerated
        Let the guide lack latents that the model marks for enumeration, as Pyro's TraceEnum_ELBO does. The weights of
        such a pair mean nothing.
    route
        Takes the guide's trace to the one whose latents the densities are evaluated at: the same values, by another
        route for the gradient.
    constant_guide
        Score the latents under the guide with constant parameters.

    Raises
    ------
    ProgramError
        If model and guide do not have the same latents, all inside the data plate of size B, or have dimensions that
        belong to no plate.
    ValueError
        If ``num_particles`` is not a positive integer.
    """
    if not isinstance(num_particles, int) or num_particles < 1:
        raise ValueError(f"num_particles: found {num_particles!r}, expected a positive integer")
    dim = -1 - max_plate_nesting
    try:
        with pyro.plate("num_particles_vectorized", num_particles, dim=dim) if num_particles > 1 else nullcontext():
            guide_trace = poutine.trace(guide).get_trace(x)
            latents = guide_trace if route is None else route(guide_trace)
            model_trace = poutine.trace(poutine.replay(model, trace=latents)).get_trace(x)
            scored_trace = guide_trace
            if constant_guide:
                scored_trace = with_constant_parameters(functools.partial(_scored, guide, latents))(x)
    except ProgramError as error:
        raise ProgramError(str(error).partition("Trace Shapes:")[0].strip()) from error
    except ValueError as error:
        reason = str(error).partition("Trace Shapes:")[0].strip()  # Pyro appends a table of all sites
        if "collide" in reason:
            raise ProgramError(
                f"found another plate at dim={dim}, where the particles go, expected max_plate_nesting (now "
                f"{max_plate_nesting}) to count all of the program's own plates: {reason}"
            ) from error
        if "Shape mismatch inside plate" in reason:
            raise ProgramError(
                f"{reason}; expected dimensions of plates alone; declare those of one datum with .to_event(n)"
            ) from error
        raise
    pair = PairTrace(model_trace, guide_trace, scored_trace, num_particles, len(x), max_plate_nesting)
    _check_pair(pair, enumerated)
    return pair


def log_weights(
    model: Program, guide: Program, x: Tensor, num_particles: int = 1, *, max_plate_nesting: int = 1
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
    pair = trace_pair(isolated(model), isolated(guide), x, num_particles, max_plate_nesting=max_plate_nesting)
    return torch.stack(list(pair.terms().values())).sum(0)
