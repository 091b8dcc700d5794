"""The sample sites of a trace: which carry probability, their density, and the scale of plates around them."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.inference.plates import DataPlate

__all__ = ["KL_WEIGHT", "Site", "beside_events", "density", "inner_scale", "random_sites"]

Site = dict[str, Any]
KL_WEIGHT = "_kl_weight"  # where annealing leaves its weight, among what Pyro calls a site's infer


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


def beside_events(value: Any, num_dims: int) -> Any:
    """A mask or scale of a site's batch shape, beside ``num_dims`` dimensions of its event."""
    return value[(..., *[None] * num_dims)] if isinstance(value, Tensor) and value.dim() else value
