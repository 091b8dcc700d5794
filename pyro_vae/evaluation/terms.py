r"""The bounds of each datum, and what each layer of latents takes from them.

.. math::

    \mathrm{ELBO} = \mathbb{E}_q \log w, \qquad
    \mathrm{IWAE}_K = \mathbb{E}_q \log \frac1K \sum_k w_k, \qquad
    \mathrm{KL}_t = \mathbb{E}_q\bigl[\log q(z_t|\cdot) - \log p(z_t|\cdot)\bigr] ,

all three from the same K draws a datum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.data.batch import Batch
from pyro_vae.evaluation.chunks import most_draws
from pyro_vae.evaluation.streaming import StreamingWeights
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
    size = max(most_draws(programs, x[:2]) // num_particles, 1)
    parts = []
    for start in tqdm(range(0, len(x), size), desc="bounds", unit="batch", disable=not progress, leave=False):
        pair = trace_pair(programs, x[start : start + size], num_particles)
        terms = {name: term.double() for name, term in pair.terms().items()}  # (K, B) each
        log_w = torch.stack(list(terms.values())).sum(0)
        weights = StreamingWeights(num_particles)
        weights.update(log_w)
        kl = {name: _mean(-term) for name, term in terms.items() if name and name not in pair.observed}
        parts.append(Terms(_mean(log_w), (weights.log_mean(), weights.std_error()), kl))
    return Terms(
        _joined([part.elbo for part in parts]),
        _joined([part.iwae for part in parts]),
        {name: _joined([part.kl[name] for part in parts]) for name in parts[0].kl},
    )


def _mean(draws: Tensor) -> Estimate:
    return draws.mean(0), draws.std(0) / len(draws) ** 0.5


def _joined(parts: list[Estimate]) -> Estimate:
    values, errors = (torch.cat(each) for each in zip(*parts, strict=True))
    return values, errors
