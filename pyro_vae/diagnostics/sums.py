"""What a diagnosis sums up over the data, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_vae.diagnostics.activity import Table, update_means
from pyro_vae.diagnostics.moments import Moments
from pyro_vae.inference.kl import analytic_kl, sampled_kl
from pyro_vae.inference.traces import PairTrace

__all__ = ["Sums"]


class Sums:
    """Moments over the data: of the ELBO, of each site's term, of each unit's KL and of each unit's mean."""

    def __init__(self) -> None:
        self.elbo, self.terms, self.units, self.means = Moments(), Table(), Table(), Table()
        self.latents: list[str] = []

    @classmethod
    def merged(cls, parts: Sequence[Sums]) -> Sums:
        """Return the moments over the data of several parts."""
        first, *others = parts
        for other in others:
            first.latents = first.latents or other.latents
            first.elbo.merge(other.elbo)
            for name in ("terms", "units", "means"):
                for site, moments in getattr(other, name).items():
                    getattr(first, name)[site].merge(moments)
        return first

    def update(self, pair: PairTrace) -> None:
        """Add the draws of a batch."""
        self.latents = pair.latents
        log_w: Any = 0.0
        for name in pair.observed:
            log_p = pair.log_prob(pair.model_sites[name]).double()[..., None]  # (K, B, 1)
            self.terms[name].update(log_p)
            log_w = log_w + log_p
        auxiliary = [name for name in pair.guide_sites if name not in pair.model_sites]
        for name in (*pair.latents, *auxiliary):
            kl = _kl(pair, name).double()  # (K, B, D)
            self.units[name].update(kl)
            self.terms[name].update(kl.sum(-1, keepdim=True))
            log_w = log_w - kl.sum(-1, keepdim=True)
        self.elbo.update(log_w)
        update_means(self.means, pair)


def _kl(pair: PairTrace, name: str) -> Tensor:
    """Return the KL ``(K, B, D)`` of a latent site, by units if it factorises; of an auxiliary site, its log q."""
    if name not in pair.model_sites:
        return pair.log_prob(pair.guide_sites[name])[..., None]
    kl = analytic_kl(pair, name)
    return sampled_kl(pair, name) if kl is None else kl
