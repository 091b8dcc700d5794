"""Diagnostics: what the latents of a trained pair are used for."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.batches import as_batches
from pyro_vae.importance import random_sites
from pyro_vae.modules import placement
from pyro_vae.state import evaluating, isolated, seeded

__all__ = ["active_units", "posterior_means"]


@torch.no_grad()
def posterior_means(guide: nn.Module, x: Any, *, batch_size: int = 500, seed: int = 0) -> dict[str, Tensor]:
    r"""Return :math:`\mathbb{E}_q[z|x]` of each latent site for data ``(N, *data_shape)``: ``(N, *event_shape)`` each.

    In a hierarchy a layer's mean is taken given one draw of the layers sampled before it.
    """
    device, dtype = placement(guide)
    means: dict[str, list[Tensor]] = {}
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(guide):
        for batch in as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x"):
            trace = poutine.trace(isolated(guide)).get_trace(batch)
            for name, site in random_sites(trace).items():
                means.setdefault(name, []).append(site["fn"].mean)
    return {name: torch.cat(parts) for name, parts in means.items()}


def active_units(guide: nn.Module, x: Any, *, threshold: float = 1e-2) -> dict[str, int]:
    r"""Count the units of each latent site that the guide uses.

    .. math:: A_i = \mathrm{Var}_x\bigl(\mathbb{E}_q[z_i|x]\bigr) > 0.01

    Parameters
    ----------
    guide
        The guide.
    x
        Data ``(N, *data_shape)``, N of 2 or more: a tensor, an array, a split, a dataset or a loader.
    threshold
        The variance above which a unit counts as active.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015, section 5.2.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> active_units(vae.guide, torch.zeros(10, 4))  # equal data cannot move any unit
    {'z': 0}
    """
    means = posterior_means(guide, x)
    return {name: int((mean.flatten(1).var(0) > threshold).sum()) for name, mean in means.items()}
