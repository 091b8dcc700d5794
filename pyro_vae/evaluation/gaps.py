r"""Where a bound loses: to the family of the posteriors, and to the network that gives them.

.. math:: \log p(x) - \mathcal{L}(x;\, q_\phi)
          = \underbrace{\log p(x) - \max_{q \in F} \mathcal{L}(x;\, q)}_{\text{approximation gap of } F}
          + \underbrace{\max_{q \in F} \mathcal{L}(x;\, q) - \mathcal{L}(x;\, q_\phi)}_{\text{amortisation gap in } F}

The maxima are found by steps of each datum's own, first in the guide's family and from there in that of its flows, see
:mod:`pyro_vae.evaluation.refinement`. What the steps do not find of a maximum counts as approximation gap. Where
the weights that log p(x) was estimated by are too heavy and those of a refined posterior are not, the gaps take the
estimate by the latter, unless it is the lower one: a refined posterior may have left all modes of the true one but one,
and Pareto k does not see the others.

The data are refined in parts, each on draws of a seed of its own, which the ranks of a process group share.

Cremer, Li and Duvenaud, *Inference Suboptimality in Variational Autoencoders*, 2018.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.batch import Batch
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.evaluation.chunks import chunk_size_for, even, most_draws, num_bytes_of_draw
from pyro_vae.evaluation.estimates import LogLikelihood, joined
from pyro_vae.evaluation.evaluations import Figure
from pyro_vae.evaluation.refined_guide import Family, RefinedGuide
from pyro_vae.evaluation.refinement import differentiable, improve
from pyro_vae.evaluation.streaming import StreamingWeights
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.ranks import together

__all__ = ["gaps_of"]

_FAMILIES: tuple[Family, ...] = ("own", "flow")
_STEPS = ((200, 0.01), (100, 0.001))  # numbers of steps and their sizes: what the first leave as noise, the last remove
_NUM_PARTICLES = 10  # a step
_EVAL_PARTICLES = 1000  # for each bound
_MOST_BYTES = 2**31  # of a step
_MOST_DATA = 50  # in a part


@torch.inference_mode(False)
def gaps_of(programs: ProgramPair, x: Batch, score: LogLikelihood, seed: int, progress: bool) -> dict[str, Figure]:
    """Return both gaps in each family, by name, of n data with estimates of log p(x)."""
    num_bytes = _NUM_PARTICLES * num_bytes_of_draw(programs.isolated(), x)  # of all: plates may have a fixed size
    size = even(len(x), min(max(_MOST_BYTES // max(num_bytes, 1), 1), _MOST_DATA))
    pair = (programs.model, programs.guide)
    options: dict[str, Any] = {"device": x.device, "dtype": programs.placement(x)[1], "programs": pair}
    work = SharedWork(as_batches(x, size, shuffle=False, **options), seed, pair, has_chunks=False)
    parts: list[tuple[Tensor, LogLikelihood]] = []
    with together("gaps"), work.seeded():
        try:
            for part in work.batches():
                own = score.rows(slice(work.index * size, (work.index + 1) * size))
                parts.append(_bounds_of(programs, differentiable(part), own, progress))
        except Exception as error:
            work.ranks.gather(pyro_error_reason(error) or type(error).__name__)
            raise
        for reason in filter(None, work.ranks.gather("")):
            raise ProgramError(reason)
        parts = work.of_all(parts)
    score = joined([(part, part.num_dims * len(part.values)) for _, part in parts], x.device)
    bounds = torch.cat([bound.to(x.device) for bound, _ in parts], -1)
    (guides, guides_error), *refined = bounds.unbind()
    gaps: dict[str, Figure] = {}
    for family, (best, best_error) in zip(_FAMILIES, refined, strict=True):
        amortisation = Figure.of(best - guides, best_error.hypot(guides_error))
        approximation = Figure.of(score.values - best, score.std_error.hypot(best_error), int(score.is_heavy.sum()))
        gaps |= {f"amortisation_gap_{family}": amortisation, f"approximation_gap_{family}": approximation}
    return gaps


def _bounds_of(programs: ProgramPair, x: Batch, score: LogLikelihood, progress: bool) -> tuple[Tensor, LogLikelihood]:
    """Return the bounds of the guide and of the best of each family with their errors ``(3, 2, n)``, and log p(x)."""
    log_w = _weights(programs.isolated(), x)
    bounds, guide = [_mean(log_w)], programs.guide
    for family in _FAMILIES:
        guide = RefinedGuide(guide, x, family)
        if not guide.offsets():
            raise ProgramError("guide: found no latent, expected one or more to be refined")
        refined = replace(programs, guide=guide).isolated()
        for num_steps, lr in _STEPS:
            improve(refined, guide, x, num_steps, lr=lr, num_particles=_NUM_PARTICLES, progress=progress)
        log_w = _weights(refined, x)
        bounds.append(_mean(log_w))
        score = _lighter(score, log_w)
    return torch.stack(bounds), score


@torch.no_grad()
def _weights(programs: ProgramPair, x: Batch) -> Tensor:
    """Return log weights ``(K, n)`` in float64."""
    size = chunk_size_for(_EVAL_PARTICLES, len(x), most_draws(programs, x))
    return torch.cat([weights_of(programs, x, size).double() for _ in range(0, _EVAL_PARTICLES, size)])


def _mean(log_w: Tensor) -> Tensor:
    """Return the ELBO of each datum and its standard error, ``(2, n)``."""
    return torch.stack([log_w.mean(0), log_w.std(0) / len(log_w) ** 0.5])


def _lighter(score: LogLikelihood, log_w: Tensor) -> LogLikelihood:
    """Return estimates of log p(x): of the given weights where the others are too heavy and say no more."""
    weights = StreamingWeights(len(log_w))
    weights.update(log_w)
    found = LogLikelihood.of(weights)
    is_lower = found.values < score.values - 2 * found.std_error.hypot(score.std_error)
    chosen = (score.is_heavy & ~found.is_heavy & ~is_lower).nonzero()[:, 0]
    return score.replaced(chosen, found.rows(chosen))
