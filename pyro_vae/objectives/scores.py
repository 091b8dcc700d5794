r"""The score of latents that cannot be reparameterised, times what it is multiplied by.

A draw :math:`z` without a path is trained by its score, multiplied by all terms of the bound that it takes part in. The
members of a plate are independent, so a draw in a plate takes part in the terms of its own member alone, and in those
outside of the plate,

.. math:: \sum_i \Bigl(\sum_{t \ni i} \ell_t - \text{baseline}\Bigr) \nabla_\phi \log q_\phi(z_i) .

For every bound this is so for the plate of the data. For the ELBO, a sum of terms, it is so for all plates of a draw:
with 200,000 members in a further plate the noise is less by a factor of about 400. The ELBO also leaves the score of
:math:`-\log q_\phi(z)` itself out, whose mean is zero, as Pyro's ``Trace_ELBO`` does. A ``pyro.factor`` of the guide
was not drawn, and its mean is not: the loss keeps its gradient, as in Pyro's ``TraceEnum_ELBO``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.inference.plates import plates_of
from pyro_vae.inference.sites import density
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.gradients import learning_signal
from pyro_vae.objectives.reductions import Reduction, mean_signal

__all__ = ["score_of_a_sum", "score_of_each_datum"]


def score_of_each_datum(pair: PairTrace, names: list[str], guide_bound: Reduction, log_w: Tensor) -> Tensor:
    """Return the surrogate ``(B,)`` for latents of which all draws of a datum share one signal."""
    log_q = torch.stack([pair.score(name) for name in names]).sum(0)
    return (learning_signal(guide_bound, log_w) * log_q).sum(0)


def score_of_a_sum(pair: PairTrace, name: str, mean: Reduction, log_w: Tensor) -> Tensor:
    """Return the surrogate ``(B,)`` for one latent of an ELBO, without the score of its own log q."""
    site = pair.guide_sites[name]
    own = pair.over_particles(lambda run: run.log_prob(run.guide_sites[name], True)).mean(0)
    own = torch.zeros_like(own) if site["is_observed"] else own
    plates = {(frame.name, frame.dim) for frame in plates_of(site)}
    if {dim for _, dim in plates} <= {pair.plate.dim} or len(pair.parts) > 1 or pair.parts[0] is not pair:
        return score_of_each_datum(pair, [name], mean, log_w) + own
    log_q = pair.in_plates(density(site), {**site, "mask": None}, scaled=False)  # (K or 1, *plates)
    signal = _of_own_members(pair, plates)
    if pair.num_particles > 1:
        signal = signal.expand(pair.num_particles, *signal.shape[1:])
        signal = mean_signal(signal, (signal.sum(0) - signal) / (pair.num_particles - 1))
    return pair.sum_to_data(signal * log_q).sum(0) + own


def _of_own_members(pair: PairTrace, plates: set[tuple[str, int]]) -> Tensor:
    """Return the terms ``(K or 1, *plates)`` summed over the plates that a latent is not in."""
    total = None
    for sites, sign in ((pair.model_sites, 1), (pair.scored_sites, -1)):
        for site in sites.values():
            value = pair.in_plates(density(site).detach(), site, scaled=True)
            kept = {frame.dim for frame in plates_of(site) if (frame.name, frame.dim) in plates}
            others = [dim for dim in range(-pair.max_plate_nesting, 0) if dim not in kept]
            value = sign * (value.sum(others, keepdim=True) if others else value)
            total = value if total is None else total + value
    assert total is not None
    return total
