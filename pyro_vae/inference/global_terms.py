r"""The terms of sites outside of the data plate, which belong to all data at once.

.. math:: g = \log p(W) - \log q(W)

Each is ``(K,)``, or ``(1,)`` if all particles share one draw.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.plates import PARTICLES
from pyro_vae.inference.sites import Site, density, unannealed_scale
from pyro_vae.inference.traces import PairTrace, differences

__all__ = ["global_log_q", "global_score", "global_sum", "global_terms"]


def global_sum(run: PairTrace, value: Tensor, site: Site, scaled: bool) -> Tensor:
    """Sum what a site gave in one run over all dimensions but the particles'; masks count.

    With ``scaled``, it has the site's own scale, annealing included; without, it has the scale without annealing.
    """
    scale = site["scale"] if scaled else unannealed_scale(site, run.plate, run.scale)
    return _sum(run, value, site, site["mask"], scale)


def _sum(run: PairTrace, value: Tensor, site: Site, mask: Any, scale: Any) -> Tensor:
    value = run.weighed(value, site, mask, scale)
    value = value.reshape((1,) * (run.max_plate_nesting + 1 - value.dim()) + value.shape)
    has_particles = PARTICLES in {frame.name for frame in site["cond_indep_stack"]}
    return value.flatten(1).sum(1) if has_particles else value.sum()[None]


def global_terms(pair: PairTrace, scaled: bool = False) -> dict[str, Tensor]:
    """Return what each site adds to the log weight of all data: log p of an observed one, log p - log q of a latent."""

    def of_run(run: PairTrace) -> dict[str, Tensor]:
        return differences(run, lambda site: global_sum(run, density(site), site, scaled), scaled, is_global=True)

    return pair.over_globals(of_run)


def global_log_q(pair: PairTrace, scaled: bool = False) -> Tensor:
    """Return the log-probability of the latents under the guide."""

    def of_run(run: PairTrace) -> Tensor:
        found = [run.scored_sites[name] for name in run.global_sites if name in run.scored_sites]
        sites = [site for site in found if scaled or not site["is_observed"]]
        return torch.stack([global_sum(run, density(site), site, scaled) for site in sites]).sum(0)

    return pair.over_globals(of_run)


def global_score(pair: PairTrace, name: str) -> Tensor:
    """Return the log-probability of a latent under the guide that drew it, masked or not: it was drawn."""

    def of_run(run: PairTrace) -> Tensor:
        site = run.guide_sites[name]
        return _sum(run, density(site), site, None, 1.0)

    return pair.over_globals(of_run)
