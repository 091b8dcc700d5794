"""Reconstructions and samples of a model and a guide of one's own, which have no methods for them.

A reconstruction is the mean of p(x|z) with each latent at the mean of the guide, a sample that of latents drawn from
the model. Both are runs of the two programs on data, of which the shape alone matters to a sample.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.handlers import AtMeans
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.reporting.subject import LeftOut
from pyro_vae.runtime.state import evaluating

__all__ = ["reconstructed", "sampled"]


@torch.no_grad()
def reconstructed(model: Any, guide: Any, x: Tensor) -> Tensor:
    """Return the mean of p(x|z) of data ``(N, *data_shape)`` at the means of their latents, in their shape.

    Raises
    ------
    LeftOut
        If the model does not observe the data at one site, or that has no mean.
    """
    x = _there(model, guide, x)
    with evaluating(model, guide), pyro.validation_enabled(False):
        with AtMeans():
            latents = poutine.trace(isolated(guide)).get_trace(x)
        trace: Any = poutine.trace(poutine.replay(isolated(model), trace=latents)).get_trace(x)
    return _mean({name: trace.nodes[name] for name in trace.observation_nodes}, x)


@torch.no_grad()
def sampled(model: Any, guide: Any, x: Tensor) -> Tensor:
    """Return the means of p(x|z) for latents drawn from the model, as many as there are data in x and in their shape.

    Raises
    ------
    LeftOut
        If the model does not observe the data at one site, or that has no mean.
    """
    x = _there(model, guide, x)
    with evaluating(model, guide), pyro.validation_enabled(False):
        trace: Any = poutine.trace(isolated(model)).get_trace(x)
    return _mean({name: trace.nodes[name] for name in trace.observation_nodes}, x)


def _there(model: Any, guide: Any, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise LeftOut("the programs take several arguments, of which no single one is the datum")
    device, dtype = ProgramPair(model, guide).placement(x)
    return x.to(device, dtype)


def _mean(observed: dict[str, Any], x: Tensor) -> Tensor:
    if len(observed) != 1:
        raise LeftOut(f"the model observes {len(observed)} sites, and not the data at one")
    (site,) = observed.values()
    try:
        mean: Tensor = site["fn"].mean
    except (NotImplementedError, AttributeError) as error:
        raise LeftOut(f"the distribution of {next(iter(observed))} has no mean") from error
    if mean.numel() != x.numel():
        raise LeftOut(f"{next(iter(observed))} has the shape {tuple(mean.shape)}, and the data {tuple(x.shape)}")
    return mean.reshape(x.shape)
