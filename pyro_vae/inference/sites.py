"""The sample sites of a trace: which carry probability, their density, and the scale of plates around them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.flows.draws import remember
from pyro_vae.inference.plates import DataPlate

__all__ = [
    "BATCH_SHARE",
    "KL_WEIGHT",
    "NOISE",
    "Site",
    "beside_events",
    "density",
    "inner_scale",
    "mask_of",
    "outer_scale",
    "random_sites",
    "unannealed_scale",
]

Site = dict[str, Any]
# Where annealing leaves its weight, and a batch its share of the data, among what Pyro calls a site's infer.
KL_WEIGHT, BATCH_SHARE = "_kl_weight", "_batch_share"
NOISE = "_noise"  # where a site keeps the noise of a value that the same distribution drew in another run


def random_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites of a trace that carry probability: no subsampling indices, no deterministic values."""
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def density(site: Site) -> Tensor:
    """The log-probability of a site's value as its distribution gives it, computed once."""
    if "unscaled_log_prob" not in site:  # Pyro's own name for it
        remember(site["fn"], site["value"], site.get(NOISE))
        try:
            site["unscaled_log_prob"] = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        except (KeyError, NotImplementedError) as error:  # a flow that knows no inverse, at a value it did not draw
            raise ProgramError(
                f"site {site['name']!r}: found {site['fn']}, which has no density at a given value, expected one "
                f"whose transforms can be inverted: {error}"
            ) from error
    return site["unscaled_log_prob"]


def inner_scale(site: Site, plate: DataPlate) -> float:
    """Return the scale of the plates, other than the data's, that a site is in and that are subsampled."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.full_size not in (None, frame.size) and not plate.is_frame(frame):
            scale *= frame.full_size / frame.size
    return scale


def outer_scale(site: Site, plate: DataPlate) -> Any:
    """Return the scale of a site without that of plates which subsample what belongs to one datum."""
    inner = inner_scale(site, plate)
    return site["scale"] if inner == 1.0 else site["scale"] / inner


def unannealed_scale(site: Site, plate: DataPlate, common: Any) -> Any:
    """Return the scale of a site outside of the data plate without the weight of annealing.

    Where the weight is zero, it is that of the whole program: the ``common`` scale of the data, times their share.
    """
    weight = site["infer"].get(KL_WEIGHT, 1.0)
    if not isinstance(weight, Tensor) and weight == 1.0:
        return site["scale"]
    share = site["infer"].get(BATCH_SHARE, plate.size / plate.full_size)
    whole = common * share * inner_scale(site, plate)
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, site["scale"] / weight.clamp(min=1e-30), whole)
    return site["scale"] / weight if weight else whole


def beside_events(value: Any, num_dims: int) -> Any:
    """A mask or scale of a site's batch shape, beside ``num_dims`` dimensions of its event."""
    return value[(..., *[None] * num_dims)] if isinstance(value, Tensor) and value.dim() else value


def mask_of(site: Site) -> Any:
    """Return which values of a site count, by masks around it and of its distribution; ``True`` where all do.

    It has the dimensions of the value, and sizes of 1 where it is the same for all.
    """
    fn, mask = site["fn"], True if site["mask"] is None else site["mask"]
    mask = beside_events(mask, fn.event_dim)
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            inner = beside_events(fn._mask, fn.event_dim)
            mask = inner if mask is True else mask & inner
        fn = fn.base_dist
    return mask
