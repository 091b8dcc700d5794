r"""Scoring: the marginal likelihood by importance sampling, with its error, and the mean of a bound.

.. math:: \log \hat p(x_b) = \log \frac1K \sum_k w_{kb}

Its expectation is a lower bound that rises to log p(x) as K grows: always say K.
"""

from __future__ import annotations

import functools
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.compilation.compiled import Compile, Compiled, make_reporter
from pyro_vae.data.batch import Batch
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.evaluation.chunks import Size, batch_size_for, chunk_size_for, is_worth_compiling, most_draws
from pyro_vae.evaluation.estimates import LogLikelihood, joined, num_dims_of
from pyro_vae.evaluation.streaming import StreamingWeights, merged
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import VectorizeParticles, way_of
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import owners
from pyro_vae.runtime.precision import Precision, precise
from pyro_vae.runtime.state import evaluating

__all__ = ["log_likelihood"]


@checked
@exclusive("log_likelihood", shared=True)
@torch.no_grad()
def log_likelihood(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: AnyData,
    num_particles: PositiveInteger = 5000,
    *,
    chunk_size: Size = "auto",
    batch_size: Size = "auto",
    precision: Precision = "highest",
    compile: Compile = "auto",
    seed: Seed | None = None,
    max_plate_nesting: PositiveInteger = 1,
    vectorize_particles: VectorizeParticles = "auto",
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
        Data ``(N, *data_shape)``: a tensor, an array, a split of :func:`pyro_vae.data.load`, a tuple or dictionary of
        these, a dataset or a loader. Entries are passed on as in :func:`pyro_vae.fit`.
    num_particles
        The number K of importance samples of each datum; the last chunk holds what is left of it.
    chunk_size, batch_size
        How many particles of how many data are drawn at once: memory and speed, never what is estimated. The draws of
        a seed depend on them. ``"auto"`` chooses sizes that are fast on the device, by K, the data and, on a GPU, its
        memory, see :mod:`pyro_vae.evaluation.chunks`. A loader keeps its own ``batch_size``.

    Other Parameters
    ----------------
    precision
        Of products of float32 matrices, see :func:`pyro_vae.runtime.precision.precise`.
    compile
        Whether to compile the programs for whole chunks of whole batches, see :mod:`pyro_vae.compilation`. ``"auto"``
        does from two million draws on, on a GPU from two hundred million, which take longer than compiling.
    seed
        Seeds the draws; the caller's generators are left as they were. ``None`` draws on from them.
    max_plate_nesting
        How many plates the programs have at least, the data plate included.
    vectorize_particles
        How the particles of a chunk are drawn, see :func:`pyro_vae.log_weights`.
    progress
        Show a progress bar.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If a count is not a positive integer, a size neither that nor ``"auto"``, for an unknown ``precision`` or
        ``compile``, or if the data are empty, not finite, or outside the likelihood's support.

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
    programs = ProgramPair(model, guide, max_plate_nesting, vectorize_particles)
    isolated = programs.isolated()
    device, dtype = programs.placement(x)
    size = batch_size_for(x, num_particles, device) if batch_size == "auto" else batch_size
    options: dict[str, Any] = {"name": "x", "programs": (model, guide), "each_datum": True}
    batches = as_batches(x, size, device=device, dtype=dtype, shuffle=False, **options)
    work = SharedWork(batches, seed, (model, guide), num_particles=num_particles, chunk_size=chunk_size)
    parts: list[tuple[LogLikelihood, float]] = []  # with the number of dimensions
    shown = progress and work.ranks.is_first

    def weigh(x: Batch, size: int) -> list[Tensor]:
        return [weights_of(isolated, x, size)]

    with (
        pyro.validation_enabled(False),
        work.seeded(),
        evaluating(model, guide),
        precise(precision, device),
        tqdm(work.batches(), desc="log p(x)", unit="batch", disable=not shown, leave=False, total=work.num()) as bar,
    ):
        first = check_program(programs, batches, name="x", num_particles=num_particles)
        assert first is not None
        if num_particles > 1 and way_of(isolated, first, shares_globals=False) is False:
            chunk_size = 1
        elif chunk_size == "auto":
            most = work.least(most_draws(isolated, first))
            chunk_size = chunk_size_for(num_particles, len(first), most)
        sizes = [chunk_size] * (num_particles // chunk_size)
        sizes += [num_particles % chunk_size] * bool(num_particles % chunk_size)
        chunks = None
        num_draws = (batches.num_data or 0) * num_particles // work.ranks.size
        if num_particles >= chunk_size and is_worth_compiling(compile, num_draws, device):
            weigh_chunk = functools.partial(weigh, size=chunk_size)
            modules, say = (*owners(model), *owners(guide)), make_reporter(shown)
            chunks = Compiled(weigh_chunk, modules, num_data=len(first), name="likelihood", say=say)
        for batch in bar:
            weights = StreamingWeights(num_particles)
            for size in work.chunks(sizes):
                (log_w,) = weigh(batch, size) if chunks is None or size != chunk_size else chunks(batch)
                weights.update(log_w)
            weights = merged(work.of_batch(weights))
            parts.append((LogLikelihood.of(weights), num_dims_of(programs, batch)))
    return joined(work.of_all(parts), device)
