r"""Draws of latents are held against the support of the model, whose formula scores them outside of it, too.

That of an exponential prior, at the draw :math:`z = -2` of a normal guide, is as large as one likes,

.. math:: \log p(z) = \log\lambda - \lambda z ,

and adds to the estimate of log p(x) what is no probability. The draws of the first runs are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import ProgramError
from pyro_vae.inference.each_datum import is_made_of_auxiliary_draws, point_mass_of
from pyro_vae.inference.sites import Site, density, mask_of
from pyro_vae.inference.support import entry_support
from pyro_vae.inference.traces import PairTrace

__all__ = ["check_latents"]


def check_latents(pair: PairTrace) -> None:
    """Raise ``ProgramError`` for a draw of the guide that the model does not cover, where it has a value all the same.

    One that has a density of zero there, as the formulas of some distributions say, needs no check.
    """
    for name, site in pair.model_sites.items():
        drawn, fn, value = pair.guide_sites.get(name), site["fn"], site["value"]
        support = entry_support(fn)
        if drawn is None or drawn["is_observed"] or support is None or constraints.is_dependent(support):
            continue
        if support in (constraints.real, entry_support(drawn["fn"])) or _is_mapped_to_support(pair, name):
            continue
        inside = fn.support.check(value)
        seen = mask_of(site)
        if isinstance(seen, Tensor) and seen.dim():
            seen = seen.flatten(seen.dim() - fn.event_dim).any(-1) if fn.event_dim else seen
        if inside.all() or not (outside := ~inside & _has_weight(site) & seen).any():
            continue
        found = value.expand(*outside.shape, *fn.event_shape)[tuple(outside.nonzero()[0].tolist())]
        raise ProgramError(
            f"site {name!r}: found the draw {f'{found.item():g}' if found.numel() == 1 else found.tolist()} of the "
            f"guide's {drawn['fn']} outside the support of the model's {fn}, {support}, expected a guide that draws "
            "inside of it alone, such as a distribution on real numbers sent through biject_to(support)"
        )


def _has_weight(site: Site) -> Tensor:
    """Return where a value has a density, or none that is known."""
    try:
        return density(site) != -torch.inf
    except ValueError:  # of a distribution that holds its values against its support itself
        return torch.ones((), dtype=torch.bool, device=site["value"].device)


def _is_mapped_to_support(pair: PairTrace, name: str) -> bool:
    """Return whether an AutoGuide has mapped a draw to the support of its site, where it lies but for rounding."""
    return point_mass_of(pair.guide_sites[name]) is not None and is_made_of_auxiliary_draws(pair, name)
