r"""The evidence lower bound, with both estimators of the AEVB paper.

.. math::

    \mathcal{L}^A(x) &= \frac1K \sum_k \log p(x, z_k) - \log q(z_k|x) \\
    \mathcal{L}^B(x) &= -\mathrm{KL}\bigl(q(z|x) \,\|\, p(z)\bigr) + \frac1K \sum_k \log p(x|z_k)

with :math:`z_k \sim q(z|x)`. Both have the same mean, and

.. math:: \log p(x) = \mathcal{L}(x) + \mathrm{KL}\bigl(q(z|x) \,\|\, p(z|x)\bigr).

Two options change the KL term in training. Both act on its mean over the batch, :math:`\overline{\mathrm{KL}}`: a floor
λ (free bits), and a target C (capacity),

.. math:: -\sum_i \max(\lambda, \overline{\mathrm{KL}}_i), \qquad\qquad -\gamma\, |\overline{\mathrm{KL}} - C| .
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.inference.kl import analytic_global_kl, analytic_kl, factorises, sampled_kl
from pyro_vae.inference.particles import VectorizeParticles
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.gradients import Gradient
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.reductions import Reduction, mean_signal, signal_of
from pyro_vae.objectives.scores import score_of_a_sum
from pyro_vae.runtime.arguments import NonNegativeNumber, PositiveInteger, checked
from pyro_vae.runtime.batch_sums import batch_mean
from pyro_vae.schedules import Schedule

__all__ = ["ELBO"]


class ELBO(Objective):
    r"""The mean log weight.

    .. math:: \mathrm{ELBO}(x_b) = \frac1K \sum_k \log w_{kb}

    Parameters
    ----------
    num_particles
        K. More particles lower the variance of the gradient; the mean of the bound stays. Latents that cannot be
        reparameterised need 2 or more for the baseline of the score.
    kl
        ``"sample"`` for the paper's :math:`\mathcal{L}^A`, ``"analytic"`` for :math:`\mathcal{L}^B` with the KL of each
        latent site in closed form. A site is sampled all the same unless torch has the KL of its two distributions, the
        model's depends on no latent that the guide draws later, and both programs scale and mask the site alike.
    free_bits
        λ, nats: the floor under the mean KL of each latent site. Below it the KL has no gradient. 0 for none.
    free_bits_per
        ``"site"``, or ``"unit"`` for a floor under each unit of each site.
    capacity
        C, nats: the target of the total KL, a number or a :class:`~pyro_vae.schedules.Schedule`.
    capacity_weight
        γ, the weight of the distance from the target.
    gradient, max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If a choice is unknown, a count is not a positive integer, a number is negative, or both ``free_bits`` and
        ``capacity`` are given.
    ProgramError
        When run with ``free_bits_per="unit"``: if a latent does not factorise over its units.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, equations 6 and 7. Kingma et al., *Improving
    Variational Inference with Inverse Autoregressive Flow*, 2016, appendix C.8 (free bits). Burgess et al.,
    *Understanding disentangling in beta-VAE*, 2018, equation 8 (capacity).

    Examples
    --------
    >>> import torch
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> ELBO(num_particles=3).bound(vae.model, vae.guide, torch.zeros(5, 4)).shape
    torch.Size([5])
    """

    is_linear = True

    @checked
    def __init__(
        self,
        num_particles: PositiveInteger = 1,
        *,
        kl: Literal["sample", "analytic"] = "sample",
        free_bits: NonNegativeNumber = 0.0,
        free_bits_per: Literal["site", "unit"] = "site",
        capacity: NonNegativeNumber | Schedule | None = None,
        capacity_weight: NonNegativeNumber = 1000.0,
        gradient: Gradient = "reparam",
        max_plate_nesting: PositiveInteger = 1,
        vectorize_particles: VectorizeParticles = "auto",
    ) -> None:
        super().__init__(
            num_particles,
            gradient=gradient,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
        )
        if free_bits and capacity is not None:
            raise ValueError(f"free_bits: found {free_bits!r} beside capacity={capacity!r}, expected one of the two")
        self.kl, self.free_bits, self.free_bits_per = kl, free_bits, free_bits_per
        self.capacity, self.capacity_weight = capacity, capacity_weight

    def arguments(self) -> dict[str, Any]:
        shown: dict[str, Any] = {} if self.kl == "sample" else {"kl": self.kl}
        if self.free_bits:
            shown |= {"free_bits": self.free_bits, "free_bits_per": self.free_bits_per}
        if self.capacity is not None:
            shown |= {"capacity": self.capacity, "capacity_weight": self.capacity_weight}
        return shown

    @property
    def has_batch_means(self) -> bool:
        return bool(self.free_bits) or self.capacity is not None

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    @signal_of(reduce)
    def _signal(self, log_w: Tensor, others: Tensor) -> Tensor:
        return mean_signal(log_w, others)

    def is_true(self, pair: PairTrace) -> bool:
        return super().is_true(pair) and not self.free_bits and self.capacity is None

    def terms(self, pair: PairTrace, scaled: bool) -> dict[str, Tensor]:
        terms = pair.terms(scaled)
        if self.kl == "analytic":
            for name in pair.latents:
                kl = analytic_kl(pair, name, scaled)
                if kl is not None:
                    terms[name] = -kl.sum(-1)
        if scaled and self.free_bits:
            for name in pair.latents:
                terms[name] = self._with_floor(pair, name, terms[name])
        if scaled and self.capacity is not None and pair.latents:
            terms |= self._held_at_capacity({name: terms[name] for name in pair.latents})
        return terms

    def scores(self, pair: PairTrace, names: list[str], guide_bound: Reduction, log_w: Tensor) -> Tensor:
        if pair.global_sites:  # which a latent may take part in
            terms = torch.stack(list(self.global_terms(pair, scaled=True).values())).sum(0)
            log_w = log_w + terms.detach()[:, None] / pair.common_scale
        if self.kl == "analytic" or self.free_bits or self.capacity is not None:
            return super().scores(pair, names, guide_bound, log_w)
        return torch.stack([score_of_a_sum(pair, name, guide_bound, log_w) for name in names]).sum(0)

    def global_terms(self, pair: PairTrace, scaled: bool) -> dict[str, Tensor]:
        terms = super().global_terms(pair, scaled)
        if self.kl == "analytic":
            for name in terms:
                if name in pair.scored_sites and (kl := analytic_global_kl(pair, name, scaled)) is not None:
                    terms[name] = -kl
        return terms

    def _with_floor(self, pair: PairTrace, name: str, term: Tensor) -> Tensor:
        """Return the term ``(K, B)`` of a latent site, or the floor where its mean KL is below it."""
        site = pair.guide_sites[name]
        floor = -self.free_bits * torch.ones_like(term) * pair.weight(name)
        if self.free_bits_per == "site":
            return torch.where(batch_mean(term, (0, 1)) < batch_mean(floor, (0, 1)), term, floor)
        if not factorises(pair, name):
            raise ProgramError(
                f"site {name!r}: found {site['fn']} beside {pair.model_sites[name]['fn']}, expected both to be "
                "independent over the units for free_bits_per='unit'"
            )
        kl = analytic_kl(pair, name, scaled=True) if self.kl == "analytic" else None
        units = -(sampled_kl(pair, name, scaled=True) if kl is None else kl)
        below = batch_mean(units, (0, 1)) < batch_mean(floor, (0, 1))
        return torch.where(below, units, floor[..., None]).sum(-1)

    def _held_at_capacity(self, latents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return -γ |KL - C| as terms of each datum, γ s (log p - log q + C) with s the sign of KL - C."""
        capacity: Any = self.capacity.value if isinstance(self.capacity, Schedule) else self.capacity
        total = torch.stack(list(latents.values())).sum(0)  # (K, B), minus the KL
        sign = self.capacity_weight * torch.sign(-batch_mean(total, (0, 1)) - capacity)
        return {name: sign * term for name, term in latents.items()} | {
            "|KL - C|": (sign * capacity).expand_as(total).to(total)
        }
