"""What can be found wrong before any work starts: a pair that is none, or data that its likelihood does not cover."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.batches import Batches
from pyro_vae.constants import check_runs_again, with_copied_buffers
from pyro_vae.errors import ProgramError
from pyro_vae.handlers import Program
from pyro_vae.importance import scored_with_constants, trace_pair
from pyro_vae.likelihoods.heterogeneous import Columns
from pyro_vae.likelihoods.levels import Levels
from pyro_vae.missing import unpack
from pyro_vae.modules import placement
from pyro_vae.objectives import Objective
from pyro_vae.state import evaluating, isolated, seeded
from pyro_vae.traces import PairTrace, random_sites

__all__ = ["check_program", "first_bad_site"]


@torch.no_grad()
def check_program(
    model: Program,
    guide: Program,
    batches: Batches,
    *,
    name: str = "data",
    num_particles: int = 1,
    max_plate_nesting: int = 1,
    enumerated: bool = False,
    objective: Objective | None = None,
    trained: bool = False,
) -> None:
    """Run the pair once on the first of ``batches`` and hold the data against the observed site's support.

    All data that lie on the device, that is; of a loader's, the first batch.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair; with an ``objective``, if it cannot train them; with ``trained``, if a
        parameter belongs to no module.
    ValueError
        If a value of the data lies outside the support of the observed site; the message names both.
    """
    pair, first, observed, start = None, None, [], 0
    with seeded(0, placement(model, guide)[0]):  # an order, binarised pixels and latents are drawn
        for x in batches.in_order() if batches.resident else islice(batches, 1):
            _check_finite(x, start, name)
            if pair is None:
                options = {"max_plate_nesting": max_plate_nesting, "enumerated": enumerated}
                pair, first = _trace(model, guide, x[:2], name, **options), x[:2]
                if trained:
                    _check_params(pair)
                if num_particles > 1:  # not as many as data, so that the one cannot pass for the other
                    _trace(model, guide, x[:2], name, num_particles=3, **options)
                data, _ = unpack(model, x[:2])
                observed = [site for site in map(pair.model_sites.__getitem__, pair.observed) if _is_data(site, data)]
            for site in observed:
                _check_support(site, *unpack(model, x), start, name)
            start += len(x)
        if objective is not None and first is not None:
            _check_objective(model, guide, objective, first, name)
    if pair is None:
        raise ValueError(f"{name}: found no data, expected one datum or more")


def _check_objective(model: Program, guide: Program, objective: Objective, x: Tensor, name: str) -> None:
    if objective.gradient != "reparam":
        check_runs_again(guide)
        _check_second_run(guide, x)
    with torch.enable_grad():
        _run(lambda: objective.estimate(isolated(model), isolated(guide), x), model, guide, x, name)


def _check_second_run(guide: Program, x: Tensor) -> None:
    """The guide, run twice on its own latents in the mode that it is in, must give them the same density twice."""
    latents = poutine.trace(with_copied_buffers(isolated(guide))).get_trace(x)
    first, second = (scored_with_constants(guide, latents, x) for _ in range(2))
    for name, site in random_sites(first).items():
        if not torch.equal(site["unscaled_log_prob"], second.nodes[name]["unscaled_log_prob"]):
            raise ProgramError(
                f"site {name!r}: found another density of the same latents when the guide ran again, expected a guide "
                "without dropout or other noise of its own, or gradient='reparam'"
            )


def _check_params(pair: PairTrace) -> None:
    for trace in (pair.guide_trace, pair.model_trace):
        params: dict[str, Any] = {name: trace.nodes[name]["value"] for name in trace.param_nodes}
        for name, value in params.items():
            owned = value.unconstrained() if hasattr(value, "unconstrained") else value
            if not isinstance(owned, nn.Parameter):
                raise ProgramError(
                    f"parameter {name!r}: found in a bare pyro.param, which only SVI trains, expected an nn.Parameter "
                    "or a PyroParam that is an attribute of the program"
                )


def _trace(model: Program, guide: Program, x: Tensor, name: str, **options: Any) -> PairTrace:
    return _run(lambda: trace_pair(isolated(model), isolated(guide), x, **options), model, guide, x, name)


def _run(call: Callable[[], Any], model: Program, guide: Program, x: Tensor, name: str) -> Any:
    try:
        with evaluating(model, guide):
            return call()
    except ProgramError:
        raise
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        reason = str(error).partition("Trace Shapes:")[0].strip()  # Pyro appends a table of all sites
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


def _check_support(site: dict[str, Any], x: Tensor, seen: Tensor, start: int, name: str) -> None:
    support = _elementwise(site["fn"].support)
    if support is None:
        return
    outside = seen & ~support.check(x)
    if outside.any():
        where, found = _first(outside, x, start)
        base = site["fn"]
        if isinstance(base, Columns):
            base = base.group_of(where[-1])
            support = _elementwise(base.support)
        while hasattr(base, "base_dist"):
            base = base.base_dist
        raise ValueError(
            f"{name}: found the value {found:g} at {where}, outside the support of site {site['name']!r}, "
            f"expected what a {type(base).__name__} covers, {support}{_hint(support, found)}"
        )


def _hint(support: Any, found: float) -> str:
    """What may help with data outside of a support, to end a message with."""
    if support is constraints.boolean:
        return "; binarise it (see pyro_vae.data.load), or use another likelihood"
    if isinstance(support, Levels) and 1 < found <= support.top:
        return f"; divide whole levels by {support.top}"
    return ""


def _first(bad: Tensor, x: Tensor, start: int) -> tuple[tuple[int, ...], float]:
    """Where in the data the first ``bad`` entry of a batch is that begins at ``start``, and what is there."""
    row, *rest = bad.nonzero()[0].tolist()
    return (start + row, *rest), x[(row, *rest)].item()


def _elementwise(support: Any) -> Any:
    """The constraint on single entries, or ``None`` where it depends on parameters of the distribution."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = [value for value in vars(support).values() if isinstance(value, Tensor) and value.numel() > 1]
    return None if bounds or support.event_dim else support


@torch.no_grad()
def first_bad_site(model: Program, guide: Program, x: Tensor, num_particles: int, max_plate_nesting: int) -> str:
    """Name the first site whose value or log-probability is not finite: a phrase for an error message."""
    try:
        pair = trace_pair(isolated(model), isolated(guide), x, num_particles, max_plate_nesting=max_plate_nesting)
    except (ProgramError, ValueError) as error:
        return f"the programs could not be traced again: {error}"
    for program, sites in (("guide", pair.guide_sites), ("model", pair.model_sites)):
        for name, site in sites.items():
            for what, value in (("value", site["value"]), ("log-probability", pair.log_prob(site))):
                if not torch.isfinite(value).all():
                    return f"the {what} of site {name!r} in the {program}"
    return "no site (every value and log-probability is finite)"
