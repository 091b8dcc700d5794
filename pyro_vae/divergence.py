r"""The Kullback-Leibler divergence of a latent site, in closed form or from its draws, whole or unit by unit.

.. math:: \mathrm{KL}\bigl(q(z_i|\cdot) \,\|\, p(z_i|\cdot)\bigr)
          = \mathbb{E}_q\bigl[\log q(z_i|\cdot) - \log p(z_i|\cdot)\bigr]

What stands before the site, layers of a hierarchy above or below it, is given: sampled by the guide.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.importance import PairTrace

__all__ = ["analytic_kl", "log_ratio_per_unit"]


def analytic_kl(pair: PairTrace, name: str, scaled: bool) -> Tensor | None:
    """KL(q ‖ p) of one site given the sites before it, ``(K, B)``, or ``None`` where it must be sampled.

    Integrating a latent out is right only if the model's distribution of it was fixed before it was drawn: every
    latent that comes before it in the model must come before it in the guide as well.
    """
    model_order, guide_order = list(pair.latents), list(pair.guide_sites)
    before_in_model = set(model_order[: model_order.index(name)])
    if not before_in_model <= set(guide_order[: guide_order.index(name)]):
        return None
    site, model_site = pair.guide_sites[name], pair.model_sites[name]
    if not _same(site["mask"], model_site["mask"]) or (scaled and not _same(site["scale"], model_site["scale"])):
        return None  # one factor cannot weigh both halves
    q, p = site["fn"], model_site["fn"]
    if q.batch_shape != p.batch_shape:  # not all of torch's formulas broadcast
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = q.expand(shape), p.expand(shape)
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return pair.per_datum(kl, site, scaled)


def _same(a: Any, b: Any) -> bool:
    """Whether two scales or masks are equal; that of tensors which are not one and the same is read from the device."""
    if a is b or not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return bool(a is b or a == b)
    return torch.equal(a, b)


def log_ratio_per_unit(pair: PairTrace, name: str, scaled: bool = False) -> Tensor | None:
    """What each unit of a latent site adds to the log weight, ``(K, B, U)``: log p - log q of its draw.

    ``None`` where one of the two distributions does not factorise over the units (a flow, a full covariance).
    """
    parts = []
    for site in (pair.model_sites[name], pair.scored_sites[name]):
        fn: Any = site["fn"]
        each = fn.base_dist if isinstance(fn, Independent) else fn
        if each.event_shape:
            return None
        parts.append(pair.per_unit(each.log_prob(site["value"]), site, scaled))
    log_p, log_q = parts
    return log_p - log_q
