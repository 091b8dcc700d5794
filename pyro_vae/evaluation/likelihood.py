r"""Scoring: the marginal likelihood by importance sampling, with its error, and the mean of a bound.

.. math:: \log \hat p(x_b) = \log \frac1K \sum_k w_{kb}

Its expectation is a lower bound that rises to log p(x) as K grows: always say K.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.compilation.compiled import Compile, Compiled, make_reporter
from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.dequantisation import bits_per_dim
from pyro_vae.evaluation.chunks import Size, batch_size_for, chunk_size_for, is_worth_compiling, most_draws
from pyro_vae.evaluation.streaming import StreamingWeights, caveat
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair, weights_of
from pyro_vae.inference.missing import ObservedOnly, unpack
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import VectorizeParticles, way_of
from pyro_vae.programs.labelled import LabelledModel
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import owners
from pyro_vae.runtime.precision import Precision, precise
from pyro_vae.runtime.state import evaluating, seeded

__all__ = [
    "LogLikelihood",
    "log_likelihood",
]


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

    Where that is so for more than a tenth of the data, ``print`` adds a mark and a sentence.
    """

    num_dims: float

    def mean(self) -> float:
        """The mean over the data, nats per datum."""
        return self.values.mean().item()

    def mean_error(self) -> float:
        """The Monte Carlo standard error of :meth:`mean`, for these very data, nats."""
        return (self.std_error.square().sum().sqrt() / len(self.values)).item()

    @property
    def mark(self) -> str:
        """A sign to print behind a figure that the weights do not carry, ``"†"``, and ``""`` behind others."""
        return self.caveat()[:1]

    def caveat(self) -> str:
        """Return the sentence that belongs to :attr:`mark`, see :func:`pyro_vae.evaluation.streaming.caveat`."""
        return caveat(self.khat)

    def __str__(self) -> str:
        figure = f"{self.mean():.3f} ± {self.mean_error():.3f}{self.mark} nats, the mean of {len(self.values)} data"
        return "\n".join(filter(None, (figure, self.caveat())))

    @checked
    def bits_per_dim(self, num_levels: PositiveInteger = 1) -> float:
        """Minus the mean, in bits per dimension of a datum; of incomplete data, per observed one.

        Where the programs take several arguments, the dimensions are the entries that the model's sites observe.
        Of data that were dequantised from ``num_levels`` grey levels, 256 for bytes, it is then a bound on those of the
        levels, see :mod:`pyro_vae.data.dequantisation`.
        """
        return bits_per_dim(self.mean(), self.num_dims, num_levels)


@checked
@exclusive("log_likelihood")
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
    device, dtype = programs.placement()
    size = batch_size_for(x, num_particles, device) if batch_size == "auto" else batch_size
    batches = as_batches(x, size, device=device, dtype=dtype, shuffle=False, name="x", programs=(model, guide))
    parts: list[tuple[Tensor, ...]] = []
    num_dims = 0.0  # summed over the data

    def weigh(x: Batch, size: int) -> list[Tensor]:
        return [weights_of(isolated, x, size)]

    with (
        pyro.validation_enabled(False),
        seeded(seed, device),
        evaluating(model, guide),
        precise(precision, device),
        tqdm(batches, desc="log p(x)", unit="batch", disable=not progress, leave=False) as bar,
    ):
        first = check_program(programs, batches, name="x", num_particles=num_particles)
        assert first is not None
        if num_particles > 1 and way_of(isolated, first, shares_globals=False) is False:
            chunk_size = 1
        elif chunk_size == "auto":
            chunk_size = chunk_size_for(num_particles, len(first), most_draws(isolated, first))
        sizes = [chunk_size] * (num_particles // chunk_size)
        sizes += [num_particles % chunk_size] * bool(num_particles % chunk_size)
        chunks = None
        num_draws = (batches.num_data or 0) * num_particles
        if num_particles >= chunk_size and is_worth_compiling(compile, num_draws, device):
            weigh_chunk = functools.partial(weigh, size=chunk_size)
            modules, say = (*owners(model), *owners(guide)), make_reporter(progress)
            chunks = Compiled(weigh_chunk, modules, num_data=len(first), name="likelihood", say=say)
        for batch in bar:
            weights = StreamingWeights(num_particles)
            for size in sizes:
                (log_w,) = weigh(batch, size) if chunks is None or size != chunk_size else chunks(batch)
                weights.update(log_w)
            parts.append((weights.log_mean(), weights.std_error(), weights.ess(), weights.khat()))
            num_dims += _num_dims(programs, batch)
    estimate = LogLikelihood(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    estimate.num_dims = num_dims / len(estimate.values)
    return estimate


def _num_dims(programs: ProgramPair, x: Batch) -> float:
    """How many entries of a batch have a density: neither those that are missing, nor labels packed with the data."""
    program = bare(programs.model)
    if isinstance(program, LabelledModel):
        return float(len(x) * math.prod(program.data_shape))
    if isinstance(x, Arguments):
        with seeded(0, x.device):
            pair = trace_pair(programs.isolated(), x)
        return sum(_num_seen(pair.model_sites[name]) for name in pair.observed)
    return unpack(program, x)[1].sum().item() if isinstance(program, ObservedOnly) else float(x.numel())


def _num_seen(site: dict[str, Any]) -> float:
    """How many entries a site observes, without those that a mask leaves out."""
    fn, seen = site["fn"], torch.ones_like(site["value"], dtype=torch.bool)
    masks = [] if site["mask"] is None else [(site["mask"], fn.event_dim)]
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            masks.append((fn._mask, fn.event_dim))
        fn = fn.base_dist
    for mask, event_dim in masks:
        seen = seen & (mask[(..., *[None] * event_dim)] if isinstance(mask, Tensor) else mask)
    return seen.sum().item()
