r"""Wake-sleep: the model learns from data, the guide from dreams or from weighted draws.

The two programs do not maximise one bound; each has its own objective. Neither needs reparameterised draws, so every
kind of latent works. With p the model and q the guide,

.. math::

    \text{wake, model:} \quad & \nabla_\theta\, \mathbb{E}_{q(z|x)}[\log p_\theta(x, z)] \\
    \text{sleep, guide:} \quad & \nabla_\phi\, \mathbb{E}_{p(x', z')}[\log q_\phi(z'|x')]

so the guide minimises KL(p ‖ q) on the model's dreams, where the ELBO minimises KL(q ‖ p) on the data. It is the
baseline of the AEVB paper's figure 2. *Reweighted* wake-sleep gives the model IWAE's gradient and trains the guide on
the data as well, with the same draws and weights :math:`\tilde w_k = w_k / \sum_j w_j`:

.. math:: \text{wake, guide:} \quad \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k|x)
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.batch import Batch, as_batch
from pyro_vae.errors import ProgramError
from pyro_vae.inference.each_datum import check_whole_plates
from pyro_vae.inference.frozen import DetachedLatents, with_copied_buffers
from pyro_vae.inference.global_terms import global_log_q, global_terms
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.particles import VectorizeParticles
from pyro_vae.inference.simulation import simulate
from pyro_vae.inference.sites import BATCH_SHARE, random_sites
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.estimate import Estimate
from pyro_vae.objectives.gradients import slope
from pyro_vae.objectives.objective import Objective
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.batch_sums import is_shared

__all__ = ["ReweightedWakeSleep", "WakeSleep"]

Phase = Literal["wake", "sleep", "both"]


class WakeSleep(Objective):
    r"""Wake-sleep, which reports the ELBO.

    The value of the loss is minus the ELBO; the sleep phase enters its gradient only. In the sleep phase the model
    draws as many dreams as there are data, and the guide is trained on them.

    Parameters
    ----------
    num_particles
        K, the number of latents drawn for each datum in the wake phase.
    max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If a count is not a positive integer.
    ProgramError
        When run: if the model does not observe exactly one site of the data's size. Its dreams there are the guide's
        data.

    References
    ----------
    Hinton, Dayan, Frey and Neal, *The wake-sleep algorithm for unsupervised neural networks*, 1995.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> WakeSleep().bound(vae.model, vae.guide, torch.zeros(5, 4)).shape
    torch.Size([5])
    """

    guide_phase: Phase = "sleep"

    @checked
    def __init__(
        self,
        num_particles: PositiveInteger = 1,
        *,
        max_plate_nesting: PositiveInteger = 1,
        vectorize_particles: VectorizeParticles = "auto",
    ) -> None:
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=vectorize_particles)

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    def log_weights(self, pair: PairTrace, scaled: bool) -> Tensor:
        """Return the log weights ``(K, B)``, or joint ones of all data, ``(K, 1)``, of global latents."""
        log_w = super().log_weights(pair, scaled)
        if not pair.global_sites:
            return log_w
        return (log_w.sum(1) + torch.stack(list(global_terms(pair, scaled).values())).sum(0))[:, None]

    def reduced(self, pair: PairTrace, scaled: bool) -> Tensor:
        bound = super().reduced(pair, scaled)
        return bound.expand(pair.num_data) / pair.num_data if pair.global_sites else bound

    def estimate(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> Estimate:
        x = as_batch(args, kwargs)
        with DetachedLatents():
            pair = trace_pair(self.pair_of(model, guide), x, self.num_particles, each_datum=False)
        _refuse_a_subsample(pair)
        check_whole_plates(pair)
        bound = self.reduced(pair, scaled=True)
        if not torch.is_grad_enabled():
            return self._estimate(pair, bound, bound)
        log_w, log_q = self.log_weights(pair, scaled=True), _log_q(pair, scaled=True)
        weights = slope(self.reduce, log_w)
        surrogate = (weights * torch.where(weights > 0, log_w + log_q, 0.0)).sum(0)  # log w + log q = log p
        if self.guide_phase != "sleep":
            surrogate = surrogate + (weights * _log_q(pair, scaled=False)).sum(0)
        if pair.global_sites:
            surrogate = surrogate / pair.num_data
        if self.guide_phase != "wake" and (pair.latents or pair.global_sites):
            halves = with_copied_buffers(model), with_copied_buffers(guide)  # batch statistics are those of the data
            surrogate = surrogate + self._dream(*halves, x, pair)
        return self._estimate(pair, bound, surrogate)

    def global_terms(self, pair: PairTrace, scaled: bool) -> dict[str, Tensor]:
        """Return none: global latents are in the joint weights."""
        return {}

    def _dream(self, model: StochasticFunction, guide: StochasticFunction, x: Batch, pair: PairTrace) -> Tensor:
        """Return log q(z'|x') ``(B,)`` of as many dreams of the model as there are data."""
        if len(pair.observed) != 1:
            raise ProgramError(f"found the observed sites {pair.observed}, expected one, for the model to dream")
        (name,) = pair.observed
        if not isinstance(x, Tensor) or pair.global_sites:
            found = f"the global latents {pair.global_sites}" if pair.global_sites else f"{x!r}"
            raise ProgramError(
                f"found {found}, expected one argument and latents of single data, for the model to dream"
            )
        dreams, dreamt = simulate(model, x, {name: pair.model_sites[name]})
        recognised = poutine.trace(poutine.replay(guide, trace=dreamt)).get_trace(dreams)
        one = PairTrace(dreamt, recognised, recognised, 1, len(x), self.max_plate_nesting)
        return torch.stack([one.log_prob(site)[0] for site in random_sites(recognised).values()]).sum(0)


def _log_q(pair: PairTrace, scaled: bool) -> Tensor:
    """Return log q ``(K, B)``, or the joint one ``(K, 1)`` of all data."""
    log_q = pair.log_q(scaled)
    return (log_q.sum(1) + global_log_q(pair, scaled))[:, None] if pair.global_sites else log_q


def _refuse_a_subsample(pair: PairTrace) -> None:
    """Refuse global latents in a subsample of the data: their weights are those of all data at once."""
    sites = {**pair.guide_sites, **pair.model_sites}
    for name in pair.global_sites:
        plate, share = pair.plate, sites[name]["infer"].get(BATCH_SHARE, 1.0)
        if plate.full_size != plate.size or share != 1:
            found = plate.full_size if share == 1 else round(plate.size / share)
            expected = "one process" if is_shared() else "all data in a batch"
            raise ProgramError(
                f"site {name!r}: found outside the data plate, which holds {plate.size} of {found} data"
                f"{', as ranks share each batch' * is_shared()}, expected {expected} for wake-sleep, or an ELBO or IWAE"
            )


class ReweightedWakeSleep(WakeSleep):
    r"""Reweighted wake-sleep, which reports the bound of IWAE.

    Parameters
    ----------
    num_particles
        K, 2 or more. With one particle every weight is 1, and the wake phase would train the guide on its own draws.
    guide_phase
        The guide's training data: ``"wake"`` for weighted draws on the data, ``"sleep"`` for dreams, or ``"both"``.
    max_plate_nesting, vectorize_particles
        As for every :class:`~pyro_vae.objectives.objective.Objective`.

    Raises
    ------
    ValueError
        If ``num_particles`` is below 2, another count is not a positive integer, or ``guide_phase`` is unknown.
    ProgramError
        When run with a sleep phase: as for :class:`WakeSleep`.

    References
    ----------
    Bornschein and Bengio, *Reweighted Wake-Sleep*, 2015, equations 3, 5 and 7.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> ReweightedWakeSleep(num_particles=5).bound(vae.model, vae.guide, torch.zeros(3, 4)).shape
    torch.Size([3])
    """

    @checked
    def __init__(
        self,
        num_particles: PositiveInteger,
        *,
        guide_phase: Phase = "both",
        max_plate_nesting: PositiveInteger = 1,
        vectorize_particles: VectorizeParticles = "auto",
    ) -> None:
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=vectorize_particles)
        if num_particles < 2:
            raise ValueError(f"num_particles: found {num_particles}, expected 2 or more, to have weights")
        self.guide_phase = guide_phase

    def arguments(self) -> dict[str, Any]:
        return {"guide_phase": self.guide_phase}

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.logsumexp(0) - math.log(len(log_w))
