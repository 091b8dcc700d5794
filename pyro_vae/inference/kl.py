r"""The Kullback-Leibler divergence of a latent site from its prior, unit by unit, in closed form or from its draws.

.. math:: \mathrm{KL}\bigl(q(z_i|\cdot) \,\|\, p(z_i|\cdot)\bigr)
          = \mathbb{E}_q\bigl[\log q(z_i|\cdot) - \log p(z_i|\cdot)\bigr]

What stands before the site, layers of a hierarchy above or below it, is given: sampled by the guide. The units are the
entries of the site's event (and of further plates) where both distributions are independent over them; a site that does
not factorise, for a flow or a full covariance, is one unit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vae.inference.global_terms import global_sum
from pyro_vae.inference.traces import PairTrace

__all__ = ["analytic_global_kl", "analytic_kl", "factorises", "sampled_kl"]


def analytic_kl(pair: PairTrace, name: str, scaled: bool = False) -> Tensor | None:
    """KL(q ‖ p) of one site given the sites before it, ``(K, B, U)``, or ``None`` where it must be sampled.

    Integrating a latent out is right only if the model's distribution of it was fixed before it was drawn: every
    latent that comes before it in the model must come before it in the guide as well.
    """

    def of_run(run: PairTrace) -> Tensor | None:
        found = _closed_form(run, name, scaled)
        return None if found is None else run.per_unit(found[0], run.guide_sites[name], found[1], scaled)

    return pair.over_particles(of_run)


def analytic_global_kl(pair: PairTrace, name: str, scaled: bool = False) -> Tensor | None:
    """KL(q ‖ p) of a site outside of the data plate, ``(K,)`` or ``(1,)``, or ``None`` where it must be sampled."""

    def of_run(run: PairTrace) -> Tensor | None:
        found = _closed_form(run, name, scaled)
        if found is None:
            return None
        kl = found[0].flatten(found[0].dim() - found[1]).sum(-1) if found[1] else found[0]
        return global_sum(run, kl, run.guide_sites[name], scaled)

    return pair.over_globals(of_run)


def _closed_form(pair: PairTrace, name: str, scaled: bool) -> tuple[Tensor, int] | None:
    """Return the KL of a site and the number of its dimensions that are units."""
    model_order = [other for other, site in pair.model_sites.items() if not site["is_observed"]]
    guide_order = list(pair.guide_sites)
    before_in_model = set(model_order[: model_order.index(name)])
    if not before_in_model <= set(guide_order[: guide_order.index(name)]):
        return None
    site, model_site = pair.guide_sites[name], pair.model_sites[name]
    if not _same(site["mask"], model_site["mask"]) or (scaled and not _same(site["scale"], model_site["scale"])):
        return None  # one factor cannot weigh both halves
    q, p, num_unit_dims = _factors(site["fn"], model_site["fn"])
    if q.batch_shape != p.batch_shape:  # not all of torch's formulas broadcast
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = q.expand(shape), p.expand(shape)
    try:
        return kl_divergence(q, p), num_unit_dims
    except NotImplementedError:
        return None


def sampled_kl(pair: PairTrace, name: str, scaled: bool = False) -> Tensor:
    """log q - log p of the draws of one site, ``(K, B, U)``, whose mean is its KL."""
    return pair.over_particles(lambda run: _sampled(run, name, scaled))


def _sampled(pair: PairTrace, name: str, scaled: bool) -> Tensor:
    if not factorises(pair, name):
        log_q, log_p = (pair.log_prob(sites[name], scaled) for sites in (pair.scored_sites, pair.model_sites))
        return (log_q - log_p)[..., None]
    log_probs = []
    for site in (pair.scored_sites[name], pair.model_sites[name]):
        each, num_unit_dims = _unwrapped(site["fn"])
        log_probs.append(pair.per_unit(each.log_prob(site["value"]), site, num_unit_dims, scaled))
    return log_probs[0] - log_probs[1]


def factorises(pair: PairTrace, name: str) -> bool:
    """Whether both distributions of a latent site are independent over its units."""
    q, p, _ = _factors(pair.guide_sites[name]["fn"], pair.model_sites[name]["fn"])
    return not q.event_shape and not p.event_shape


def _factors(q: Distribution, p: Distribution) -> tuple[Distribution, Distribution, int]:
    """Two distributions of units, and in how many dimensions these lie; the two as they are, and 0, if they are one."""
    (each_q, dims_q), (each_p, dims_p) = _unwrapped(q), _unwrapped(p)
    if dims_q == dims_p and not each_q.event_shape and not each_p.event_shape:
        return each_q, each_p, dims_q
    return q, p, 0


def _unwrapped(fn: Distribution) -> tuple[Any, int]:
    num_dims = 0
    while isinstance(fn, Independent):
        num_dims, fn = num_dims + fn.reinterpreted_batch_ndims, fn.base_dist
    return fn, num_dims


def _same(a: Any, b: Any) -> bool:
    """Whether two scales or masks are equal; that of tensors which are not one and the same is read from the device."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return not any(isinstance(each, Tensor) and each.numel() > 1 for each in (a, b)) and bool(a == b)
