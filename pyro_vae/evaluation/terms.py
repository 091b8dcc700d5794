r"""The bounds of each datum, and what each layer of latents takes from them.

.. math::

    \mathrm{ELBO} = \mathbb{E}_q \log w, \qquad
    \mathrm{IWAE}_K = \mathbb{E}_q \log \frac1K \sum_k w_k, \qquad
    \mathrm{KL}_t = \mathbb{E}_q\bigl[\log q(z_t|\cdot) - \log p(z_t|\cdot)\bigr] ,

all three from the same K draws a datum. The error of the second is that of the jackknife, by the bounds
:math:`\ell_{-k}` of all weights but one,

.. math:: \mathrm{se}^2 = \frac{K - 1}{K} \sum_k (\ell_{-k} - \ell)^2 ,

which is not too small in the mean where a few weights are heavy, as that of the delta method is.

Efron and Stein, *The Jackknife Estimate of Variance*, 1981.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.data.batch import Batch
from pyro_vae.evaluation.chunks import batch_size_for, most_draws
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair

__all__ = ["Terms", "terms_of"]

Estimate = tuple[Tensor, Tensor]  # the values of the data and their Monte Carlo errors, (N,) each in float64


@dataclass
class Terms:
    """Estimates of the ELBO, of the IWAE bound and of the KL of each latent site."""

    elbo: Estimate
    iwae: Estimate
    kl: dict[str, Estimate] = field(default_factory=dict)


@torch.no_grad()
def terms_of(programs: ProgramPair, x: Batch, num_particles: int, progress: bool = False) -> Terms:
    """Return the terms of an isolated pair on N data, from K draws of each; the generators are moved."""
    measured = x[: batch_size_for(x, num_particles, x.device)]  # as for log p(x): plates may have a fixed size
    size = max(most_draws(programs, measured) // num_particles, 1)
    parts = []
    for start in tqdm(range(0, len(x), size), desc="bounds", unit="batch", disable=not progress, leave=False):
        pair = trace_pair(programs, x[start : start + size], num_particles)
        terms = {name: term.double() for name, term in pair.terms().items()}  # (K, B) each
        log_w = torch.stack(list(terms.values())).sum(0)
        kl = {name: _mean(-term) for name, term in _by_latent(terms, pair.latents, pair.observed).items()}
        parts.append(Terms(_mean(log_w), _log_mean(log_w), kl))
    return Terms(
        _joined([part.elbo for part in parts]),
        _joined([part.iwae for part in parts]),
        {name: _joined([part.kl[name] for part in parts]) for name in parts[0].kl},
    )


def _by_latent(terms: dict[str, Tensor], latents: list[str], observed: list[str]) -> dict[str, Tensor]:
    """Return the terms of the latents; those that the guide alone draws count for the latents made of them.

    Pyro's AutoNormal draws ``z_unconstrained`` for ``z``. Of other names nothing is known: all are one term then.
    """
    terms = {name: term for name, term in terms.items() if name and name not in observed}
    owners = {name: name if name in latents else name.removesuffix("_unconstrained") for name in terms}
    if not set(owners.values()) <= set(latents):
        owners = dict.fromkeys(terms, ", ".join(latents))
    joined: dict[str, Tensor] = {}
    for name, term in terms.items():
        joined[owners[name]] = joined.get(owners[name], 0.0) + term
    return joined


def _mean(draws: Tensor) -> Estimate:
    return draws.mean(0), draws.std(0) / len(draws) ** 0.5


def _log_mean(log_w: Tensor) -> Estimate:
    """Return the log of the mean weight of each datum and its error, from ``(K, B)`` with K of 2 or more."""
    num = len(log_w)
    total = log_w.logsumexp(0)
    rest = total + torch.log1p(-(log_w - total).exp())
    largest = log_w.argmax(0, keepdim=True)  # of which so little may be left that the difference above loses it
    rest = rest.scatter(0, largest, log_w.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True))
    changes = rest - math.log(num - 1) - (total - math.log(num))
    return total - math.log(num), ((num - 1) / num * changes.square().sum(0)).sqrt()


def _joined(parts: list[Estimate]) -> Estimate:
    values, errors = (torch.cat(each) for each in zip(*parts, strict=True))
    return values, errors
