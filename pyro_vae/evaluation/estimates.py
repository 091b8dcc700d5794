r"""Estimates of log p(x) of data, with their errors.

They are of importance weights w, be these of single draws or of annealed ones,

.. math:: \log \hat p(x_b) = \log \frac1K \sum_k w_{kb}, \qquad \mathbb{E}[w_{kb}] = p(x_b) .
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor

from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.dequantisation import bits_per_dim
from pyro_vae.display import Result, ResultTable, rounded, rounded_error, with_error
from pyro_vae.evaluation.streaming import (
    TRUSTED_KHAT,
    StreamingWeights,
    annealed_caveat,
    bias_caveat,
    caveat,
    mixed_caveat,
)
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.missing import ObservedOnly, unpack
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.programs.labelled import LabelledModel
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.state import seeded

__all__ = ["LogLikelihood", "joined", "num_dims_of"]


class _Estimates(NamedTuple):
    values: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor


class LogLikelihood(Result, _Estimates):
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
        Pareto shapes of the largest weights; above 0.7 the other three are not to be trusted. NaN where up to 20
        weights leave no tail to fit.
    num_dims
        The number of entries that a datum has, in the mean.
    num_particles
        K, the number of weights of a datum.
    acceptance
        The share of the moves of annealed particles that were accepted ``(N,)``, NaN where they have not moved;
        ``None`` without annealing.

    Where more than a tenth of the data are heavy, ``print`` adds a mark and a sentence.
    """

    num_dims: float
    num_particles: int
    acceptance: Tensor | None = None
    _heavy: Tensor | None = None

    @classmethod
    def of(cls, weights: StreamingWeights) -> LogLikelihood:
        """Return the estimates of a batch."""
        estimate = cls(weights.log_mean(), weights.std_error(), weights.ess(), weights.khat())
        estimate.num_particles = weights.count
        return estimate

    @property
    def is_heavy(self) -> Tensor:
        """Where a few weights outweigh the others ``(N,)``: k̂ is above 0.7, or annealed ones have too low an ESS."""
        return self.khat > TRUSTED_KHAT if self._heavy is None else self._heavy

    def marked(self, is_heavy: Tensor) -> LogLikelihood:
        """Return the estimates with more data that are heavy."""
        whole = self.rows(slice(None))
        whole._heavy = self.is_heavy | is_heavy
        return whole

    def rows(self, index: slice | Tensor) -> LogLikelihood:
        """Return the estimates of some of the data."""
        chosen = LogLikelihood(*(column[index] for column in self))
        vars(chosen).update(vars(self))
        if self._heavy is not None:
            chosen._heavy = self._heavy[index]
        if self.acceptance is not None:
            chosen.acceptance = self.acceptance[index]
        return chosen

    def replaced(self, index: Tensor, others: LogLikelihood) -> LogLikelihood:
        """Return the estimates with those of some of the data replaced by others."""
        both = zip((*self, self.is_heavy), (*others, others.is_heavy), strict=True)
        *columns, is_heavy = (old.index_copy(0, index, new.to(old)) for old, new in both)
        whole = LogLikelihood(*columns)
        vars(whole).update(vars(self), _heavy=is_heavy)
        return whole

    @classmethod
    def joined(cls, parts: Sequence[LogLikelihood], num_dims: float) -> LogLikelihood:
        """Return the estimates of several batches as one, with the number of dimensions of all their data."""
        whole = cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        whole.num_dims, whole.num_particles = num_dims / len(whole.values), parts[0].num_particles
        if any(part._heavy is not None for part in parts):
            whole._heavy = torch.cat([part.is_heavy for part in parts])
        accepted = [part.acceptance for part in parts if part.acceptance is not None]
        whole.acceptance = torch.cat(accepted) if accepted else None
        return whole

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
        """Return the sentence that belongs to :attr:`mark`, see :mod:`pyro_vae.evaluation.streaming`."""
        if self.acceptance is not None:
            sentence = annealed_caveat(self.is_heavy, self.num_particles)
        else:
            sentence = caveat(self.khat) if self._heavy is None else mixed_caveat(self.is_heavy)
        return sentence or bias_caveat(self.std_error)

    def __str__(self) -> str:
        figure = f"{with_error(self.mean(), self.mean_error(), self.mark)} nats, the mean of {len(self.values)} data"
        return "\n".join(filter(None, (figure, self.caveat())))

    def plot(self) -> Any:
        """Return a figure of log p(x) and k̂ of each datum, see :func:`pyro_vae.plots.log_likelihoods`."""
        from pyro_vae.plots import log_likelihoods  # only here, as it needs matplotlib

        return log_likelihoods(self)

    def _table(self) -> ResultTable:
        n, particles = len(self.values), getattr(self, "num_particles", None)
        over_data = self.values.std().item() / n**0.5 if n > 1 else math.nan
        errors = (self.mean_error(), over_data)
        mean, _ = rounded(self.mean(), min(errors))
        cells = (mean, rounded_error(errors[0]) + self.mark, "" if n < 2 else rounded_error(over_data), str(n))
        label = "log p(x)" if particles is None else f"log p(x), K = {particles}"
        known = self.khat[~self.khat.isnan()]
        share = f"k̂ > {TRUSTED_KHAT} for {int((known > TRUSTED_KHAT).sum())} of {n} data" if len(known) else ""
        header = ("", "nats per datum", "± Monte Carlo", "± over data", "data")
        return ResultTable(header, [(label, *cells)], notes=list(filter(None, (share, self.caveat()))))

    def _columns(self) -> dict[str, Any]:
        accepted = {} if self.acceptance is None else {"acceptance": self.acceptance}
        return self._asdict() | {"is_heavy": self.is_heavy} | accepted

    @checked
    def bits_per_dim(self, num_levels: PositiveInteger = 1) -> float:
        """Minus the mean, in bits per dimension of a datum; of incomplete data, per observed one.

        Where the programs take several arguments, the dimensions are the entries that the model's sites observe.
        Of data that were dequantised from ``num_levels`` grey levels, 256 for bytes, it is then a bound on those of the
        levels, see :mod:`pyro_vae.data.dequantisation`.
        """
        return bits_per_dim(self.mean(), self.num_dims, num_levels)


def joined(parts: Sequence[tuple[LogLikelihood, float]], device: torch.device) -> LogLikelihood:
    """Return the estimates of several batches as one on a device; with each is the number of dimensions of its data."""
    for part, _ in parts:
        part.acceptance = None if part.acceptance is None else part.acceptance.to(device)
        part._heavy = None if part._heavy is None else part._heavy.to(device)
    moved = [LogLikelihood(*(column.to(device) for column in part)) for part, _ in parts]
    for new, (old, _) in zip(moved, parts, strict=True):
        vars(new).update(vars(old))
    return LogLikelihood.joined(moved, sum(num_dims for _, num_dims in parts))


def num_dims_of(programs: ProgramPair, x: Batch) -> float:
    """How many entries of a batch have a density: neither those that are missing, nor what is packed with the data."""
    program = bare(programs.model)
    data_shape: Any = getattr(program, "data_shape", None)
    if isinstance(program, LabelledModel) or (hasattr(program, "recipe") and data_shape is not None):
        return float(len(x) * math.prod(data_shape))  # labels or covariates are packed with the data, and given
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
