"""What gives each datum a weight of its own, which an estimate of its log p(x) is made of."""

from __future__ import annotations

import torch
from pyro.distributions import Delta
from torch._guards import detect_fake_mode

from pyro_vae.errors import ProgramError
from pyro_vae.inference.plates import PARTICLES, plates_of
from pyro_vae.inference.sites import Site, inner_scale
from pyro_vae.inference.traces import PairTrace

__all__ = [
    "check_each_datum",
    "check_observed",
    "check_whole_plates",
    "is_made_of_auxiliary_draws",
    "point_mass_of",
    "without_plate",
]


def check_each_datum(pair: PairTrace) -> None:
    """Raise ``ProgramError`` unless every term of a run belongs to one of the data that the programs were given."""
    check_observed(pair)
    for name in pair.global_sites:
        raise ProgramError(_outside(name, pair))
    if pair.plate.dim is None and pair.length:
        raise ProgramError(without_plate(pair))
    if pair.num_data != pair.length and pair.length:
        raise ProgramError(
            f"site {pair.observed[0]!r}: found in the plate {pair.plate.name!r} of size {pair.num_data}, expected one "
            f"of size len(x) = {pair.length}, with a weight for each datum"
        )
    check_whole_plates(pair)
    _check_point_masses(pair)


def check_whole_plates(pair: PairTrace) -> None:
    r"""Raise ``ProgramError`` for a plate that draws a subsample of what belongs to one datum.

    Its sum is estimated without bias, but what the exponential makes of the estimate is not:

    .. math:: \mathbb{E}\, e^{\frac{n}{m} \sum_{i \in S} l_i} \ge e^{\sum_{i=1}^n l_i}, \qquad |S| = m .
    """
    for name, site in (*pair.guide_sites.items(), *pair.model_sites.items()):
        if inner_scale(site, pair.plate) != 1.0 and pair.plate.holds(site):
            raise ProgramError(
                f"site {name!r}: found in a plate that draws a subsample, expected one of all members, since weights "
                "of subsamples give no lower bound of log p(x); ELBO trains such programs"
            )


def _check_point_masses(pair: PairTrace) -> None:
    """Raise ``ProgramError`` for a point mass in the place of a continuous latent: its draws have no density."""
    if detect_fake_mode() is not None:  # without values; the programs were checked with them
        return
    for name, site in pair.guide_sites.items():
        mass, of_model = point_mass_of(site), pair.model_sites.get(name)
        if mass is None or site["is_observed"] or of_model is None or is_made_of_auxiliary_draws(pair, name):
            continue
        if _is_continuous(of_model) and not bool(torch.as_tensor(mass.log_density).any()):
            raise ProgramError(
                f"site {name!r}: found the point mass {site['fn']} in the guide for the continuous {of_model['fn']} of "
                "the model, expected a distribution with a density, since a single value tells nothing of log p(x); "
                "ELBO trains point masses"
            )


def point_mass_of(site: Site) -> Delta | None:
    """Return the point mass that a site is drawn from, under all that is wrapped around it; ``None`` of others."""
    fn = site["fn"]
    while not isinstance(fn, Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn if isinstance(fn, Delta) else None


def is_made_of_auxiliary_draws(pair: PairTrace, name: str) -> bool:
    """Return whether a point mass of the guide follows from an auxiliary draw, as the values of an AutoGuide do."""
    auxiliary = {other for other, site in pair.guide_sites.items() if site["infer"].get("is_auxiliary")}
    return f"{name}_unconstrained" in auxiliary or any(not each.endswith("_unconstrained") for each in auxiliary)


def _is_continuous(site: Site) -> bool:
    """Return whether a site has a density, as far as its distribution tells."""
    try:
        return point_mass_of(site) is None and not site["fn"].support.is_discrete
    except (NotImplementedError, AttributeError):  # of a distribution that does not tell
        return False


def check_observed(pair: PairTrace) -> None:
    """Raise ``ProgramError`` unless the model observes a site."""
    if not pair.observed:
        raise ProgramError("found no observed site in the model, expected one such as pyro.sample('x', ..., obs=x)")


def _outside(name: str, pair: PairTrace) -> str:
    """Say that a site lies outside of the data plate, and what can be done."""
    site = pair.guide_sites.get(name) or pair.model_sites[name]
    plates = [f"pyro.plate({frame.name!r}, {frame.size})" for frame in plates_of(site)]
    where = f" (in {plates[0]}, which is not that of the data)" if plates else ""
    return (
        f"site {name!r}: found outside the data plate{where}, where a latent is global: it belongs to all data, "
        "and no datum has a weight or a likelihood of its own; expected inside "
        'pyro.plate("data", len(x), dim=-1), or pyro_vae.at_global_means(model, guide), which holds global latents at '
        "the guide's means; ELBO, IWAE, SVI and fit take global latents as they are"
    )


def without_plate(pair: PairTrace) -> str:
    """Say that programs have no data plate, and name those that they have."""
    sites = [*pair.guide_sites.values(), *pair.model_sites.values()]
    stack = [frame for site in sites for frame in site["cond_indep_stack"] if frame.name != PARTICLES]
    kinds = {f.name: f"plate {f.name!r} of size {f.size}" if f.vectorized else f"sequential {f.name!r}" for f in stack}
    return (
        f"found {' and '.join(kinds.values()) or 'no plate'}, expected one for the data, "
        'pyro.plate("data", len(x), dim=-1), as a context (with ...), so that each datum has a weight of its own'
    )
