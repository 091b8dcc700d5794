r"""Diagnosis of a trained pair: the use of each of its latents.

Where the decoder does well enough without a latent, the guide returns to the prior, the KL goes to zero and the model
ignores the latent. This is *posterior collapse*, common at the top of a hierarchy. A good bound does not show it. A
diagnosis does. It has the KL of each layer and unit and their shares of the bound. It also has the variance of the
posterior means over the data and the mutual information of latents and data.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.data.conversion import as_batches
from pyro_vae.diagnostics.activity import Table, active_units, num_draws_of, portions, posterior_means, update_means
from pyro_vae.diagnostics.findings import Diagnosis
from pyro_vae.diagnostics.moments import Moments
from pyro_vae.diagnostics.mutual_information import information
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.kl import analytic_kl, sampled_kl
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.arguments import AnyData, NonNegativeNumber, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["Diagnosis", "active_units", "diagnose", "posterior_means"]

COLLAPSED_KL = 0.05  # nats: a layer with less has collapsed


@checked
@exclusive("diagnose")
@torch.no_grad()
def diagnose(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: AnyData,
    *,
    batch_size: PositiveInteger = 500,
    num_data_mi: PositiveInteger = 2000,
    seed: Seed | None = 0,
    threshold: NonNegativeNumber = 1e-2,
    max_plate_nesting: PositiveInteger = 1,
) -> Diagnosis:
    r"""Measure the use of each latent site of a pair.

    .. math::

        \mathrm{ELBO} = \underbrace{\mathbb{E}_q[\log p(x|z)]}_{\text{observed site}} - \sum_t \underbrace{
        \mathbb{E}_q\bigl[\log q(z_t|\cdot) - \log p(z_t|\cdot)\bigr]}_{\mathrm{KL}_t}, \qquad
        \mathrm{KL}_t = \sum_i \mathrm{KL}_{ti}

    The KL of a site is in closed form if torch has one and the model's distribution depends on no latent that the guide
    draws later. Other sites are sampled. The KL is split into units if both programs give the site an ``Independent``
    distribution. Programs run in eval mode without gradients. Scales (annealing, subsampling) are ignored, masks apply.

    Parameters
    ----------
    model, guide
        A pair of programs.
    x
        Data ``(N, *data_shape)``, N of 2 or more: a tensor, an array, a split, a dataset or a loader.
    batch_size
        The number of data, times the draws of each, in one run of the programs. It changes memory and speed.
    num_data_mi
        The number of data of the mutual information; time grows with its square.
    seed
        The seed of the draws; the caller's generators stay as they are. With ``None`` the draws come from those.
    threshold
        The variance above which a unit counts as active, see :func:`active_units`.
    max_plate_nesting
        The number of plates in the programs, the data plate included.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If a count is not a positive integer, or the data are fewer than 2, not finite, or outside the likelihood's
        support.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015, section 5.2 (active units); Hoffman and
    Johnson, *ELBO surgery: yet another way to carve up the variational evidence lower bound*, 2016.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> diagnosis = diagnose(vae.model, vae.guide, torch.zeros(10, 4))
    >>> diagnosis.kl_per_unit["z"].shape, diagnosis.active_units
    (torch.Size([2]), {'z': 0})
    >>> abs(sum(diagnosis.fractions.values()) - 1) < 1e-6
    True
    """
    programs = ProgramPair(model, guide, max_plate_nesting)
    device, dtype = programs.placement()
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x")
    sums = _Sums()
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(model, guide):
        check_program(programs, batches, name="x", num_particles=2)
        # Two draws of one latent show the Monte Carlo error, more take the sampling noise out of a hierarchy.
        num_draws = max(2, num_draws_of(guide, batches))
        for batch in portions(batches, batch_size, num_draws):
            pair = trace_pair(programs.isolated(), batch, num_draws)
            sums.update(pair)
    elbo, terms, units = sums.elbo, sums.terms, sums.units
    if elbo.num_data < 2:
        raise ValueError("x: found 1 datum, expected 2 or more to see what moves with the data")
    split = information(
        model, guide, x, num_data=num_data_mi, batch_size=batch_size, seed=seed, max_plate_nesting=max_plate_nesting
    )
    bound = elbo.mean.item()
    shares = {name: -term.mean.item() if name in units else term.mean.item() for name, term in terms.items()}
    kls = {name: terms[name].mean.item() for name in units}
    activity = {name: sums.means[name].variance.cpu() for name in units if name in sums.means}
    active = {name: int((values > threshold).sum()) for name, values in activity.items()}
    return Diagnosis(
        num_data=elbo.num_data,
        elbo=bound,
        elbo_error=elbo.error.item(),
        fractions={name: share / bound if bound else math.nan for name, share in shares.items()},
        kl=kls,
        kl_error={name: terms[name].error.item() for name in units},
        kl_per_unit={name: moments.mean.cpu() for name, moments in units.items()},
        activity=activity,
        active_units=active,
        units={name: len(values) for name, values in activity.items()},
        mutual_information=split.mutual_information,
        mutual_information_error=split.mutual_information_error,
        mutual_information_bound=split.bound,
        aggregate_kl=split.aggregate_kl,
        aggregate_kl_error=split.aggregate_kl_error,
        num_data_mi=split.num_data,
        warnings=[
            sentence
            for name in pair.latents
            if (sentence := _collapse(name, kls[name], active.get(name), len(activity.get(name, ()))))
        ],
        threshold=threshold,
    )


class _Sums:
    """Moments over the data: of the ELBO, of each site's term, of each unit's KL and of each unit's mean."""

    def __init__(self) -> None:
        self.elbo, self.terms, self.units, self.means = Moments(), Table(), Table(), Table()

    def update(self, pair: PairTrace) -> None:
        """Add the draws of a batch."""
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


def _collapse(name: str, kl: float, active: int | None, units: int) -> str | None:
    """Return a sentence about a layer that has collapsed, or ``None``."""
    if kl >= COLLAPSED_KL and active != 0:
        return None
    count = "" if active is None else f" and {active} of its {units} units active"
    if kl >= COLLAPSED_KL:
        meaning = "its mean does not move with the data, although its KL is not zero"
    elif active:
        meaning = "the guide stays close to what the model expects given the other layers"
    else:
        meaning = "the guide returns the prior for every datum, and the model ignores this layer"
    return f"site {name!r} has collapsed: it has a mean KL of {kl:.3f} nats{count}; {meaning}"
