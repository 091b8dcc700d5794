r"""Scoring: the marginal likelihood by importance sampling, with its error, and the mean of a bound.

.. math:: \log \hat p(x_b) = \log \frac1K \sum_k w_{kb}

Its expectation is a lower bound that rises to log p(x) as K grows: always say K.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.batches import as_batches
from pyro_vae.checks import check_program
from pyro_vae.handlers import Annealed, Program, bare
from pyro_vae.importance import log_weights
from pyro_vae.modules import placement
from pyro_vae.objectives import Objective
from pyro_vae.state import evaluating, isolated, seeded
from pyro_vae.streaming import StreamingWeights

__all__ = ["LogLikelihood", "log_likelihood", "mean_bound", "mean_estimate"]


class _Estimates(NamedTuple):
    values: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor


class LogLikelihood(_Estimates):
    """Importance-sampled log p(x) of N data: four float64 tensors ``(N,)``.

    Attributes
    ----------
    values
        Estimates of log p(x), nats.
    std_error
        Their Monte Carlo standard errors by the delta method, nats.
    ess
        Effective sample sizes, between 1 and K.
    khat
        Pareto shapes of the largest weights; above 0.7 the other three are not to be trusted.
    """

    num_dims: int

    def mean(self) -> float:
        """The mean over the data, nats per datum."""
        return self.values.mean().item()

    def mean_error(self) -> float:
        """The Monte Carlo standard error of :meth:`mean`, for these very data, nats."""
        return (self.std_error.square().sum().sqrt() / len(self.values)).item()

    def bits_per_dim(self) -> float:
        """Minus the mean, in bits per dimension of a datum."""
        return -self.mean() / (self.num_dims * float(np.log(2)))


@torch.no_grad()
def log_likelihood(
    model: Program,
    guide: Program,
    x: Any,
    num_particles: int = 5000,
    *,
    chunk_size: int = 100,
    batch_size: int = 50,
    seed: int | None = None,
    max_plate_nesting: int = 1,
    progress: bool = False,
) -> LogLikelihood:
    r"""Estimate log p(x) of each datum by importance sampling from the guide.

    .. math:: \log \hat p(x_b) = \log \frac1K \sum_k \frac{p(x_b, z_{kb})}{q(z_{kb}|x_b)}, \quad z_{kb} \sim q(z|x_b)

    Runs in eval mode and without gradients, on the programs' device. Scales (``poutine.scale``, subsampling) are
    ignored, masks count.

    Parameters
    ----------
    model, guide
        A pair of programs.
    x
        Data ``(N, *data_shape)``: a tensor, an array, a split of :func:`pyro_vae.data.load`, a dataset or a loader.
    num_particles
        The number K of importance samples of each datum; the last chunk holds what is left of it.
    chunk_size, batch_size
        How many particles of how many data are drawn at once: memory and speed, never what is estimated.
    seed
        Seeds the draws; the caller's generators are left as they were. ``None`` draws on from them.
    max_plate_nesting
        How many plates the programs have, the data plate included.
    progress
        Show a progress bar.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If a count is not a positive integer, or the data are empty, not finite, or outside the likelihood's support.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015, section 5.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> estimate = log_likelihood(vae.model, vae.guide, torch.zeros(3, 4), num_particles=1000, seed=0)
    >>> estimate.values.shape, estimate.mean_error() < 0.1
    (torch.Size([3]), True)
    """
    for argument, value in (("num_particles", num_particles), ("chunk_size", chunk_size), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument}: found {value!r}, expected a positive integer")
    device, dtype = placement(model, guide)
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x")
    sizes = [chunk_size] * (num_particles // chunk_size)
    sizes += [num_particles % chunk_size] * bool(num_particles % chunk_size)
    parts: list[tuple[Tensor, ...]] = []
    num_dims = 1
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(model, guide):
        check_program(model, guide, batches, name="x", num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        for batch in tqdm(batches, desc="log p(x)", unit="batch", disable=not progress, leave=False):
            weights = StreamingWeights(num_particles)
            for size in sizes:
                weights.update(log_weights(model, guide, batch, size, max_plate_nesting=max_plate_nesting))
            parts.append((weights.log_mean(), weights.std_error(), weights.ess(), weights.khat()))
            num_dims = batch[0].numel()
    estimate = LogLikelihood(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    estimate.num_dims = num_dims
    return estimate


@torch.no_grad()
def mean_bound(
    model: Program,
    guide: Program,
    x: Any,
    objective: Any,
    *,
    batch_size: int = 100,
    seed: int | None = None,
) -> float:
    """Return the mean of an objective's true bound over data ``(N, *data_shape)``, in eval mode, nats per datum.

    Annealing, free bits and a capacity are left out of it. A Pyro ELBO serves as well as one of this package's
    objectives; its bound is minus its loss per datum.
    """
    return mean_estimate(model, guide, x, objective, batch_size=batch_size, seed=seed)[0]


@torch.no_grad()
def mean_estimate(
    model: Program, guide: Program, x: Any, objective: Any, *, batch_size: int = 100, seed: int | None = None
) -> tuple[float, float]:
    """Return :func:`mean_bound`, and the mean of what the objective maximises: the same but for what weighs the KL."""
    device, dtype = placement(model, guide)
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x")
    total, count = torch.zeros(2, dtype=torch.float64, device=device), 0
    annealed = isinstance(model, Annealed) or isinstance(guide, Annealed)
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(model, guide):
        for batch in batches:
            if isinstance(objective, Objective):
                estimate = objective.estimate(isolated(model), isolated(guide), batch)
                total += torch.stack([estimate.true_bound.sum(), estimate.bound.sum()])
            else:
                weighed = -objective.loss(isolated(model), isolated(guide), batch)
                true = -objective.loss(isolated(bare(model)), isolated(bare(guide)), batch) if annealed else weighed
                total += torch.tensor([true, weighed], dtype=total.dtype, device=device)
            count += len(batch)
    true_bound, bound = (total / count).tolist()
    return true_bound, bound
