r"""Diagnosis of a trained pair: the use of each of its latents.

Where the decoder does well enough without a latent, the guide returns to the prior, the KL goes to zero and the model
ignores the latent. This is *posterior collapse*, common at the top of a hierarchy. A good bound does not show it. A
diagnosis does. It has the KL of each layer and unit and their shares of the bound. It also has the variance of the
posterior means over the data and the mutual information of latents and data.
"""

from __future__ import annotations

import math

import pyro
import torch

from pyro_vae.data.conversion import as_batches
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.diagnostics.activity import active_units, num_draws_of, portions, posterior_means
from pyro_vae.diagnostics.findings import Diagnosis
from pyro_vae.diagnostics.mutual_information import information
from pyro_vae.diagnostics.sums import Sums
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.arguments import AnyData, NonNegativeNumber, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.state import evaluating

__all__ = ["Diagnosis", "active_units", "diagnose", "posterior_means"]

COLLAPSED_KL = 0.05  # nats: a layer with less has collapsed


@checked
@exclusive("diagnose", shared=True)
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
    device, dtype = programs.placement(x)
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x")
    sums, work = Sums(), SharedWork(batches, seed, (model, guide))
    with pyro.validation_enabled(False), work.seeded(), evaluating(model, guide):
        check_program(programs, batches, name="x", num_particles=2)
        # Two draws of one latent show the Monte Carlo error, more take the sampling noise out of a hierarchy.
        num_draws = max(2, num_draws_of(guide, batches))
        for batch in portions(work.batches(), batch_size, num_draws):
            pair = trace_pair(programs.isolated(), batch, num_draws)
            sums.update(pair)
    if work.shares_batches:
        sums = Sums.merged(work.ranks.gather(sums))
    elbo, terms, units = sums.elbo, sums.terms, sums.units
    if elbo.num_data < 2:
        raise ValueError("x: found 1 datum, expected 2 or more to see what moves with the data")
    sizes = {"num_data": num_data_mi, "batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
    split = information(model, guide, x, seed=work.seed, **sizes)
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
            for name in sums.latents
            if (sentence := _collapse(name, kls[name], active.get(name), len(activity.get(name, ()))))
        ],
        threshold=threshold,
    )


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
