"""What a run of a pair leaves behind: the sites of both programs, and what each adds to the log weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import ProgramError

__all__ = ["PairTrace", "Site", "density", "random_sites"]

Site = dict[str, Any]


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
        """Whether a site has a scale of its own."""
        sites = (*self.scored_sites.values(), *self.model_sites.values())
        return any(isinstance(r := self.relative_scale(site), Tensor) or r != 1.0 for site in sites)

    def weight(self, site: Site) -> Any:
        """What a site's terms are weighed by, 1 or ``(K, B)``: its relative scale, and 0 where a datum is masked."""
        relative = self.relative_scale(site)
        if site["mask"] is None and not isinstance(relative, Tensor):
            return relative
        one = torch.ones((), dtype=site["value"].dtype, device=site["value"].device)
        value = self._flat(scale_and_mask(one, relative, site["mask"]), self.max_plate_nesting + 1)
        return value.amax(-1).to(one).expand(self.num_particles, self.num_data)

    @property
    def common_scale(self) -> Any:
        """The common scale as it multiplies the bounds of the data: a number, or a tensor that fits ``(B,)``."""
        scale = self.scale
        if not isinstance(scale, Tensor) or scale.dim() == 0:
            return scale
        value = self._flat(scale, self.max_plate_nesting + 1)
        if value.shape[0] > 1 or value.shape[2] > 1:
            raise ProgramError(
                f"site {self.observed[0]!r}: found a scale of shape {tuple(scale.shape)}, expected the same one for "
                "all that belongs to one datum"
            )
        return value[0, :, 0]

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
        return self.per_datum(density(site), site, scaled)

    def score(self, name: str) -> Tensor:
        """The log-probability of a latent under the guide that drew it, ``(K, B)``, masked or not: it was drawn."""
        site = self.guide_sites[name]
        return self.per_datum(density(site), {**site, "mask": None})

    def log_q(self, scaled: bool = False) -> Tensor:
        """The log-probability of the latents under the guide, ``(K, B)``, nats."""
        terms = [self.log_prob(site, scaled) for site in self.scored_sites.values()]
        if not terms:
            where = self.model_sites[self.observed[0]]["value"].device
            return torch.zeros(self.num_particles, self.num_data, device=where)
        return torch.stack(terms).sum(0)

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
