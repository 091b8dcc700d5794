r"""Data drawn from a model, with the latents that they came from.

.. math:: z' \sim p(z), \quad x' \sim p(x|z')

The latents of such a datum are an exact draw from its posterior, :math:`z' \sim p(z|x')`, since the two orders in which
a pair can be drawn give the same joint distribution.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution, Unit
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.data.batch import Arguments, Batch, call
from pyro_vae.errors import ProgramError
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.sites import Site, random_sites

__all__ = ["simulate", "simulated"]


@torch.no_grad()
def simulate(model: StochasticFunction, x: Batch, observed: Mapping[str, Site]) -> tuple[Batch, poutine.Trace]:
    """Draw latents and data from a model; of a batch, all that is not observed at these sites stays as it is.

    It reads no value of a single argument, so that it can be part of a compiled step.

    Parameters
    ----------
    model
        The model.
    x
        A batch that it takes.
    observed
        The sites to draw, of those that it observed in a run on that batch.

    Returns
    -------
    tuple
        The batch with data of the model's, and the trace of the run that drew them.

    Raises
    ------
    ProgramError
        If a site observes anything but one argument of the model, or has no distribution to draw from.
    """
    drawn = poutine.trace(_Drawing(observed)(functools.partial(call, model))).get_trace(x)
    values = list(x.values) if isinstance(x, Arguments) else [x]
    for name, site in observed.items():
        if isinstance(site["fn"], Unit):
            raise ProgramError(f"site {name!r}: found a factor, expected a distribution that data can be drawn from")
        value: Any = drawn.nodes[name]["value"]
        index = _argument(site, x.values) if isinstance(x, Arguments) else 0
        if value.numel() != values[index].numel():
            raise ProgramError(
                f"site {name!r}: found simulated values of shape {tuple(value.shape)}, expected data of shape "
                f"{tuple(values[index].shape)}"
            )
        values[index] = value.reshape(values[index].shape).to(values[index].dtype)
    return (x.replaced(values) if isinstance(x, Arguments) else values[0]), drawn


@torch.no_grad()
def simulated(model: StochasticFunction, x: Batch, observed: Mapping[str, Site]) -> tuple[Batch, poutine.Trace]:
    """Return what :func:`simulate` does, and check that the model observes what it drew, as it drew it.

    What it observes without a density, all of the site being masked, stays as it is, such as the labels of a
    :class:`~pyro_vae.ConditionalVAE`.

    Raises
    ------
    ProgramError
        Also if a site observes something else on the simulated data than was drawn there, or if a density depends on
        the data: then the draws are none of this model.
    """
    observed = {name: site for name, site in observed.items() if not _is_masked_out(site)}
    data, drawn = simulate(model, x, observed)
    latents = drawn.copy()
    for name in observed:
        latents.remove_node(name)
    again = poutine.trace(poutine.replay(functools.partial(call, model), trace=latents)).get_trace(data)
    for name in observed:
        seen: Any = again.nodes[name]["value"]
        value: Any = drawn.nodes[name]["value"]
        if seen.shape != value.shape or not torch.allclose(seen.to(value), value):
            raise ProgramError(
                f"site {name!r}: found other values than the simulated ones where the model is run on them, expected a "
                "site that observes its argument as it is"
            )
    for name, site in random_sites(drawn).items():
        if not _have_one_density(site, random_sites(again)[name]):
            raise ProgramError(
                f"site {name!r}: found another density where the model is run on the simulated data, expected one that "
                "does not depend on what the model observes; such a model, an autoregressive one, cannot be simulated"
            )
    return data, drawn


def _have_one_density(drawn: Site, again: Site) -> bool:
    """Return whether the value of a site has the same density, under the same mask, in two runs."""
    masks = [torch.as_tensor(True if site["mask"] is None else site["mask"]).cpu() for site in (drawn, again)]
    if not torch.equal(*torch.broadcast_tensors(*masks)):
        return False
    first, second = (site["fn"].log_prob(drawn["value"]) for site in (drawn, again))
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-4, equal_nan=True)


class _Drawing(Messenger):
    """Draw what a model observes at some sites."""

    def __init__(self, sites: Container[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self.sites:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def _is_masked_out(site: Site) -> bool:
    """Return whether a mask leaves out all of a site."""
    masks, fn = [site["mask"]], site["fn"]
    while hasattr(fn, "base_dist"):
        masks.append(getattr(fn, "_mask", None) if isinstance(fn, MaskedDistribution) else None)
        fn = fn.base_dist
    return any(mask is False or (isinstance(mask, Tensor) and not bool(mask.any())) for mask in masks)


def _argument(site: Site, values: Sequence[Any]) -> int:
    """Return the place of the one argument that a site observes."""
    seen: Tensor = site["value"]
    found = [
        index
        for index, value in enumerate(values)
        if isinstance(value, Tensor)
        and value.numel() == seen.numel()
        and torch.equal(seen.reshape(value.shape).to(value), value)
    ]
    if len(found) != 1:
        raise ProgramError(
            f"site {site['name']!r}: found its values in {len(found) or 'none'} of the model's arguments, expected "
            "them in one, for simulated ones to take their place"
        )
    return found[0]
