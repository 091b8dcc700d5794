r"""What a run of a pair leaves behind: the sites of both programs, and what each adds to the log weights.

A site inside the data plate has a term for each datum, one outside of it (a global latent) a single one,

.. math:: \log p(x, z, W) - \log q(z, W) = g + \sum_b \log w_b .
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.inference.plates import DataPlate, data_plate, nesting_of
from pyro_vae.inference.sites import (
    KL_WEIGHT,
    Site,
    beside_events,
    density,
    inner_scale,
    outer_scale,
    random_sites,
)

__all__ = ["PairTrace", "differences"]


_Terms = TypeVar("_Terms")


@dataclass(frozen=True)
class PairTrace:
    """One run of a pair with ``num_particles`` particles, and the terms of its weights.

    ``scored_trace`` holds the densities of the guide that enter the weights: the guide's own trace, or one of the same
    latents under the guide with constant parameters. ``length`` is that of what the programs were called with.
    """

    model_trace: poutine.Trace
    guide_trace: poutine.Trace
    scored_trace: poutine.Trace
    num_particles: int
    length: int
    least_plate_nesting: int = 1

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
    def max_plate_nesting(self) -> int:
        """The number of dimensions that plates take, the particles' left out."""
        return max(self.least_plate_nesting, nesting_of([*self.guide_sites.values(), *self.model_sites.values()]))

    @cached_property
    def plate(self) -> DataPlate:
        """The data plate."""
        return data_plate([*self.guide_sites.values(), *self.model_sites.values()], self.length)

    @property
    def num_data(self) -> int:
        """B, the number of data in the run."""
        return self.plate.size

    @property
    def data_dim(self) -> int:
        """The dimension of the data, -1 where there is no plate."""
        return -1 if self.plate.dim is None else self.plate.dim

    @property
    def parts(self) -> list[PairTrace]:
        """The runs of the particles."""
        return [self]

    def over_particles(self, terms: Callable[[PairTrace], _Terms]) -> _Terms:
        """Return a function of the run, which gives tensors ``(K, B, ...)``."""
        return terms(self)

    def over_globals(self, terms: Callable[[PairTrace], _Terms]) -> _Terms:
        """Return a function of the run, which gives tensors ``(K,)``, or ``(1,)`` if particles share them."""
        return terms(self)

    @cached_property
    def global_sites(self) -> list[str]:
        """The names of the sites outside of the data plate, those of the model first."""
        sites = {**self.scored_sites, **self.model_sites}
        return [name for name, site in sites.items() if not self.plate.holds(site)]

    @property
    def latents(self) -> list[str]:
        """The names of the model's latent sites inside the data plate, in its order."""
        sites = self.model_sites.items()
        return [name for name, site in sites if not site["is_observed"] and name not in self.global_sites]

    @property
    def observed(self) -> list[str]:
        """The names of the model's observed sites, in its order."""
        return [name for name, site in self.model_sites.items() if site["is_observed"]]

    @cached_property
    def scale(self) -> Any:
        """The scale common to the program: the one its observed site runs under (a number or a tensor).

        Without such a site, that of the data's subsampling.
        """
        observed = [site for name in self.observed if self.plate.holds(site := self.model_sites[name])]
        return outer_scale(observed[0], self.plate) if observed else self.plate.full_size / self.plate.size

    def relative_scale(self, site: Site) -> Any:
        """The scale of a site relative to the common one (a number or a tensor): the weight that annealing gives it."""
        scale, common = outer_scale(site, self.plate), self.scale
        if scale is common or (isinstance(scale, float) and isinstance(common, float) and scale == common):
            return 1.0
        return scale / common

    @cached_property
    def is_annealed(self) -> bool:
        """Whether a site has a scale of its own, or the guide a loss of its own."""
        if any(site["is_observed"] for site in self.scored_sites.values()):
            return True
        sites = [*self.scored_sites.values(), *self.model_sites.values()]
        local = [site for site in sites if self.plate.holds(site)]
        weights = [self.relative_scale(site) for site in local]
        weights += [site["infer"].get(KL_WEIGHT, 1.0) for site in sites if not self.plate.holds(site)]
        return any(isinstance(weight, Tensor) or weight != 1.0 for weight in weights)

    def weight(self, name: str) -> Any:
        """What a guide's site is weighed by, 1 or ``(K, B)``: its relative scale, and 0 where a datum is masked."""
        site = self.scored_sites[name]
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

    @property
    def total_scale(self) -> Any:
        """The common scales of the data, summed."""
        scale = self.common_scale
        return scale.expand(self.num_data).sum() if isinstance(scale, Tensor) else scale * self.num_data

    def per_datum(self, value: Tensor, site: Site, scaled: bool = False) -> Tensor:
        """Sum what a site gave over all dimensions but the particles' and the data's, to ``(K, B)``; masks count.

        With ``scaled``, it is weighed by the site's scale relative to the common one; that is KL annealing.
        """
        value = self.weighed(value, site, site["mask"], self._inner_or_relative(site, scaled))
        return self._flat(value, self.max_plate_nesting + 1).sum(-1).expand(self.num_particles, self.num_data)

    def per_unit(self, value: Tensor, site: Site, num_unit_dims: int, scaled: bool = False) -> Tensor:
        """Flatten what the units in the last dimensions gave to ``(K, B, U)``, further plates included; masks count."""
        mask, weight = (
            beside_events(factor, num_unit_dims) for factor in (site["mask"], self._inner_or_relative(site, scaled))
        )
        value = self._flat(scale_and_mask(value, weight, mask), self.max_plate_nesting + 1 + num_unit_dims)
        return value.expand(self.num_particles, self.num_data, -1)

    def _inner_or_relative(self, site: Site, scaled: bool) -> Any:
        inner = inner_scale(site, self.plate)
        return self.relative_scale(site) * inner if scaled else inner

    def weighed(self, value: Tensor, site: Site, mask: Any, scale: Any) -> Tensor:
        """Return a log-probability, masked and scaled; its dimensions are those of plates."""
        value = scale_and_mask(value, scale=scale, mask=mask)
        num_dims = self.max_plate_nesting + 1
        if value.dim() > num_dims:
            raise ProgramError(
                f"site {site['name']!r}: found a log-probability of shape {tuple(value.shape)}, expected at most "
                f"{num_dims} dimensions, the data's plate last; declare dimensions of one datum with .to_event(n)"
            )
        return value

    def _flat(self, value: Tensor, num_dims: int) -> Tensor:
        """``(K or 1, *plates, *units)``, the data's plate among them, to ``(K or 1, B or 1, everything else)``."""
        value = value.reshape((1,) * (num_dims - value.dim()) + value.shape)
        if self.plate.dim is None:
            return value.flatten(1)[:, None]
        value = value.movedim(self.max_plate_nesting + 1 + self.plate.dim, 1)
        return value.flatten(2) if value.dim() > 2 else value[..., None]

    def log_prob(self, site: Site, scaled: bool = False) -> Tensor:
        """The log-probability of a site's value given its parents, ``(K, B)``, nats."""
        return self.per_datum(density(site), site, scaled)

    def score(self, name: str) -> Tensor:
        """The log-probability of a latent under the guide that drew it, ``(K, B)``, masked or not: it was drawn."""
        site = self.guide_sites[name]
        return self.per_datum(density(site), {**site, "mask": None})

    def log_q(self, scaled: bool = False) -> Tensor:
        """The log-probability of the latents inside the data plate under the guide, ``(K, B)``, nats."""
        names = self.global_sites
        sites = [site for site in self.scored_sites.values() if scaled or not site["is_observed"]]
        terms = [self.log_prob(site, scaled) for site in sites if site["name"] not in names]
        return torch.stack(terms).sum(0) if terms else self._zeros()

    def terms(self, scaled: bool = False) -> dict[str, Tensor]:
        """What each site adds to the log weight, ``(K, B)``: log p of an observed one, log p - log q of a latent."""
        terms = differences(self, lambda site: self.log_prob(site, scaled), scaled, is_global=False)
        return terms or {"": self._zeros()}

    def _zeros(self) -> Tensor:
        values = [site["value"] for site in (*self.model_sites.values(), *self.guide_sites.values())]
        return torch.zeros(self.num_particles, self.num_data, device=values[0].device if values else None)


def differences(
    pair: PairTrace, log_prob: Callable[[Site], Tensor], scaled: bool, *, is_global: bool
) -> dict[str, Tensor]:
    """Return log p of the sites inside or outside of the data plate, less log q where the guide draws them.

    What a guide observes (by ``pyro.factor``) is a loss and no density of a latent: it counts with ``scaled`` alone.
    """
    names = pair.global_sites
    terms = {name: log_prob(site) for name, site in pair.model_sites.items() if (name in names) == is_global}
    for name, site in pair.scored_sites.items():
        if (name in names) == is_global and (scaled or not site["is_observed"]):
            log_q = log_prob(site)
            terms[name] = terms[name] - log_q if name in terms else -log_q
    return terms
