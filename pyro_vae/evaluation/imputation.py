r"""What is missing, filled in: the mean of what the model knows of it, and draws.

The weights of latents that were drawn given what is observed (:mod:`pyro_vae.inference.missing`) impute the rest,

.. math:: \mathbb{E}[x_m|x_o] \approx \sum_k \tilde w_k\, \mathbb{E}[x_m|z_k], \qquad
          \tilde w_k = w_k \Big/ \sum_j w_j ,

and latents drawn again by their weights, each with its draw of :math:`x_m`, become draws from :math:`p(x_m|x_o)` as K
grows.

Mattei and Frellsen, *MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets*, 2019.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_vae.data.conversion import as_batches
from pyro_vae.display import Result, ResultTable
from pyro_vae.errors import failing_on
from pyro_vae.evaluation.streaming import StreamingWeights, caveat
from pyro_vae.evaluation.weighted_mean import WeightedMean
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.joined import JoinedTrace
from pyro_vae.inference.missing import ObservedOnly, pack
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import way_of
from pyro_vae.runtime.arguments import Array, NonNegativeInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.objects import Arrays
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["Imputation", "impute"]


_OneOrMore = Annotated[int, Integers("an integer, 1 or more", 1)]
Mask = Annotated[Any, Arrays("a tensor or an array of True and False")]


class _Imputation(NamedTuple):
    mean: Tensor
    std_error: Tensor
    samples: Tensor
    ess: Tensor
    khat: Tensor


class Imputation(Result, _Imputation):
    """What :func:`impute` found.

    ``mean``: data ``(N, *data_shape)`` whose missing entries are their posterior means. ``std_error``: Monte Carlo
    standard errors of these, by the delta method; zero where an entry was observed. ``samples``: ``(num_samples, N,
    *data_shape)``, data whose missing entries are drawn. ``ess``: effective sample sizes of the weights, ``(N,)``,
    between 1 and K. ``khat``: Pareto shapes of the largest weights, ``(N,)``. Errors are too small where ``khat`` is
    above 0.7 or ``ess`` some hundreds or less: intervals of two of them were found to hold 65 % instead of 95 %.

    The data frame has the effective sample size and k̂ of each datum; what was filled in stays in ``mean``.
    """

    def caveat(self) -> str:
        """Return a sentence where the weights are too heavy, see :func:`pyro_vae.evaluation.streaming.caveat`."""
        return caveat(self.khat)

    def _table(self) -> ResultTable:
        filled, ess = int((self.std_error > 0).sum()), self.ess.double()
        rows = [
            ("data", f"{len(self.mean):,}"),
            ("entries filled in with an error", f"{filled:,} of {self.mean.numel():,}"),
            ("samples of each", str(len(self.samples))),
            ("effective sample size, least", f"{ess.min().item():.1f}"),
            ("effective sample size, median", f"{ess.median().item():.1f}"),
        ]
        notes = list(filter(None, (self.caveat(),)))
        return ResultTable(("Imputation", ""), rows, f"Data of shape {tuple(self.mean.shape[1:])}", notes)

    def _columns(self) -> dict[str, Any]:
        return {"ess": self.ess, "khat": self.khat}


@checked
@exclusive("impute")
@torch.no_grad()
def impute(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: Array,
    mask: Mask | None = None,
    num_particles: _OneOrMore = 1000,
    *,
    num_samples: NonNegativeInteger = 0,
    chunk_size: _OneOrMore = 100,
    batch_size: _OneOrMore = 50,
    seed: Seed | None = None,
) -> Imputation:
    r"""Fill in what is missing: its posterior mean, by importance sampling, and draws of it, by resampling.

    .. math:: \mathbb{E}[x_m|x_o] \approx \sum_k \tilde w_k\, \mathbb{E}[x_m|z_k], \qquad
              (z, x_m)_s = (z_k, x_{mk}) \text{ with probability } \tilde w_k, \quad x_{mk} \sim p(x_m|z_k)

    Both tend to what the model knows as K grows, whatever the guide. Runs in eval mode and without gradients.

    Parameters
    ----------
    model, guide
        A pair of programs, as they are or from :func:`observed_only`.
    x, mask
        Data ``(N, *data_shape)`` and where they are observed, as for :func:`pack`.
    num_particles
        K, the number of importance samples of each datum.
    num_samples
        How many imputations to draw, from the same K. They are draws from the posterior only as far as ``ess`` is large
        beside their number.
    chunk_size, batch_size
        How many particles of how many data are drawn at once: memory and speed, never what is estimated.
    seed
        Seeds the draws; the caller's generators are left as they were. ``None`` draws on from them.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair, or their observed site cannot be masked.
    ValueError
        If a count is not a positive integer (``num_samples`` may be 0), the mask does not fit, or an observed entry is
        outside the likelihood's support.

    References
    ----------
    Mattei and Frellsen, *MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets*, 2019, section 4.

    Examples
    --------
    >>> import pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> x = torch.tensor([[0.0, 1.0, torch.nan, 1.0]])
    >>> found = impute(vae.model, vae.guide, x, num_particles=200, num_samples=3, seed=0)
    >>> found.mean.shape, found.samples.shape, found.samples[:, 0, :2].unique().tolist()
    (torch.Size([1, 4]), torch.Size([3, 1, 4]), [0.0, 1.0])
    """
    programs = ProgramPair(_on_observed(model), _on_observed(guide), vectorize_particles="auto")
    packed = pack(x, mask)
    device, dtype = programs.placement(packed)
    batches = as_batches(packed, batch_size, device=device, dtype=dtype, shuffle=False, name="x")
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(programs.model, programs.guide):
        first = check_program(programs, batches, name="x", num_particles=num_particles)
        assert first is not None
        if num_particles > 1 and way_of(programs.isolated(), first, shares_globals=False) is False:
            chunk_size = 1
        sizes = [min(chunk_size, num_particles - start) for start in range(0, num_particles, chunk_size)]
        parts = []
        for batch in batches:
            with failing_on("x", batch[:, 0]):
                parts.append(_imputed(programs.isolated(), batch, sizes, num_samples))
    mean, std_error, samples, ess, khat = zip(*parts, strict=True)
    return Imputation(torch.cat(mean), torch.cat(std_error), torch.cat(samples, 1), torch.cat(ess), torch.cat(khat))


def _on_observed(program: StochasticFunction) -> ObservedOnly:
    """Return the program on its observed entries alone, as it may be already."""
    return program if isinstance(program, ObservedOnly) else ObservedOnly(program)


def _imputed(programs: ProgramPair, packed: Tensor, sizes: list[int], num_samples: int) -> Imputation:
    """One batch, chunk by chunk: weighted sums, and draws that each chunk takes over with its share of all weight."""
    x, observed = packed[:, 0], packed[:, 1] != 0  # (B, *data_shape) each
    sums, weights = WeightedMean(), StreamingWeights(sum(sizes))
    samples = x.new_zeros(num_samples, *x.shape)
    for size in sizes:
        trace = trace_pair(programs, packed, size)
        log_w = torch.stack(list(trace.terms().values())).sum(0)  # (size, B)
        weights.update(log_w)
        log_w = log_w.double()
        shape = (size * len(x),) if isinstance(trace, JoinedTrace) else (size, len(x))  # the data repeated, or not
        p = trace.model_sites[trace.observed[0]]["fn"].expand(shape)
        share = sums.update(log_w, p.mean.reshape(size, len(x), -1).double())
        if num_samples:
            draws = p.sample().reshape(size, *x.shape)
            chosen = torch.multinomial(log_w.softmax(0).T, num_samples, replacement=True).T  # (num_samples, B)
            taken = torch.rand_like(share.expand(num_samples, -1)) < share
            drawn = draws[chosen, torch.arange(len(x), device=x.device)]  # (num_samples, B, *data_shape)
            samples = torch.where(_beside(taken, drawn), drawn, samples)
    mean, std_error = (part.reshape(x.shape).to(x) for part in (sums.mean(), sums.std_error()))
    return Imputation(
        torch.where(observed, x, mean),
        torch.where(observed, 0.0, std_error),
        torch.where(observed, x, samples),
        weights.ess(),
        weights.khat(),
    )


def _beside(value: Tensor, other: Tensor) -> Tensor:
    """A tensor with dimensions of size 1 behind it, as many as the other one has more."""
    return value.reshape(*value.shape, *[1] * (other.dim() - value.dim()))
