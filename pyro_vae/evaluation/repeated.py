"""log p(x) for one small batch after another, with the checks of the programs made once.

:func:`~pyro_vae.evaluation.likelihood.log_likelihood` runs the pair to check it before it scores anything. For a single
datum, that takes longer than the score. Here the first batch of each shape is checked so, and of the following ones
only the values. The draws of a seed are those of ``log_likelihood``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.data.arrays import check_array, check_exact
from pyro_vae.data.batch import Batch
from pyro_vae.data.shared_work import reseed
from pyro_vae.evaluation.chunks import batch_size_for, chunk_size_for, most_draws
from pyro_vae.evaluation.estimates import LogLikelihood, num_dims_of
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.evaluation.streaming import StreamingWeights
from pyro_vae.inference.checks import PairCheck
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import owners
from pyro_vae.runtime.precision import precise
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["RepeatedLikelihood"]


@dataclass
class _Known:
    """What is known of data of one shape."""

    check: PairCheck
    most_draws: int


class RepeatedLikelihood:
    """A function of data that returns what ``log_likelihood`` does.

    The arguments are those of :func:`~pyro_vae.evaluation.likelihood.log_likelihood`.
    """

    def __init__(
        self, model: StochasticFunction, guide: StochasticFunction, num_particles: int, compile: bool, seed: int | None
    ) -> None:
        self.programs = ProgramPair(model, guide, vectorize_particles="auto")
        self.num_particles, self.compile, self.seed = num_particles, compile, seed
        self._isolated = self.programs.isolated()
        self._known: dict[tuple[int, ...], _Known] = {}
        self._compiled: Compiled | None = None
        if compile:
            self._compiled = Compiled(self._weigh, (*owners(model), *owners(guide)), name="score")

    def __call__(self, data: Any) -> LogLikelihood:
        """Return log p(x) of data with its errors."""
        if isinstance(data, (Tensor, np.ndarray)) and (estimate := self._of_few(data)) is not None:
            return estimate
        options: dict[str, Any] = {"compile": self.compile or "auto", "seed": self.seed}
        return log_likelihood(self.programs.model, self.programs.guide, data, self.num_particles, **options)

    @exclusive("score")
    @torch.no_grad()
    def _of_few(self, data: Any) -> LogLikelihood | None:
        """Return log p(x) of data that fit into one chunk of one batch, ``None`` for others."""
        device, dtype = self.programs.placement(data)
        values = check_array(data, "data")
        if len(values) > batch_size_for(values, self.num_particles, device):
            return None
        check_exact(values, dtype, "data")
        x = values.to(device, dtype)
        with (
            pyro.validation_enabled(False),
            seeded(self.seed, device),
            evaluating(self.programs.model, self.programs.guide),
            precise("highest", device),
        ):
            known = self._known.get(tuple(x.shape[1:])) or self._begin(x)
            if chunk_size_for(self.num_particles, len(x), known.most_draws) < self.num_particles:
                return None
            known.check(x, 0)
            if self.seed is not None:
                reseed(self.seed, 0, 0, device=device)  # the first chunk of the first batch
            weights = StreamingWeights(self.num_particles)
            weights.update(*(self._weigh if self._compiled is None else self._compiled)(x))
        estimate = LogLikelihood.of(weights)
        estimate.num_dims = num_dims_of(self.programs, x) / len(x)
        return estimate

    def _weigh(self, x: Batch) -> list[Tensor]:
        return [weights_of(self._isolated, x, self.num_particles)]

    def _begin(self, x: Tensor) -> _Known:
        """Run the pair for the first time on data of a shape."""
        check = PairCheck(self.programs, name="data", num_particles=self.num_particles, num_data=len(x), is_cut=True)
        check(x, 0)
        known = self._known[tuple(x.shape[1:])] = _Known(check, most_draws(self._isolated, x))
        return known
