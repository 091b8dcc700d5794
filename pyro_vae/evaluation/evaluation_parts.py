"""The parts of an evaluation, each of which adds its figures: none that fails takes along what the others found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
from torch import Tensor

from pyro_vae.data.batch import Batch
from pyro_vae.errors import RankError, pyro_error_reason
from pyro_vae.evaluation.annealed_importance import ais
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.evaluations import Figure, likelihood_figure
from pyro_vae.evaluation.gaps import gaps_of
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.evaluation.streaming import TRUSTED_KHAT
from pyro_vae.evaluation.terms import Terms, terms_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.state import seeded

__all__ = ["Run"]

_NUM_CHAINS, _NUM_TEMPERATURES = 16, 500
_GAPS = {
    "amortisation_gap_own": "amortisation gap, the guide's family",
    "approximation_gap_own": "approximation gap, the guide's family",
    "amortisation_gap_flow": "amortisation gap, with flows",
    "approximation_gap_flow": "approximation gap, with flows",
}


@dataclass
class Run:
    """An evaluation under way: its figures and sentences so far."""

    programs: ProgramPair
    num_particles: int
    num_iwae_particles: int
    chunk_size: int | Literal["auto"]
    seed: int
    progress: bool
    figures: dict[str, Figure] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_stopped: bool = False

    def add(self, name: str, label: str, figure: Figure) -> None:
        """Add a row to the end of the table."""
        self.figures.pop(name, None)
        self.figures[name], self.labels[name] = figure, label

    def attempt(self, name: str, part: Callable[[], Any]) -> Any:
        """Return what a part gives, or ``None`` and a sentence: what was found before is not lost with it."""
        if self.is_stopped:
            return None
        try:
            return part()
        except RankError:
            raise
        except KeyboardInterrupt:
            self.is_stopped = True
            self.notes.append(f"Left out: {name} and what comes after, since the run was interrupted")
        except Exception as error:  # of a program that cannot do this, for instance
            self.notes.append(f"Left out: {name}. {pyro_error_reason(error) or type(error).__name__}")
        return None

    @contextmanager
    def running(self, x: Batch) -> Iterator[None]:
        """Draw from the seed, and let Pyro check nothing."""
        with pyro.validation_enabled(False), seeded(self.seed, x.device):
            yield

    def terms(self, x: Batch) -> Terms:
        with self.running(x):
            return terms_of(self.programs.isolated(), x, self.num_iwae_particles, self.progress)

    def log_p(self, x: Batch) -> LogLikelihood:
        options: dict[str, Any] = {"chunk_size": self.chunk_size, "seed": self.seed, "progress": self.progress}
        return log_likelihood(self.programs.model, self.programs.guide, x, self.num_particles, **options)

    def add_bounds(self, terms: Terms, score: LogLikelihood) -> None:
        self.add("elbo", "ELBO", Figure.of(*terms.elbo))
        self.add("iwae", f"IWAE bound, K = {self.num_iwae_particles}", Figure.of(*terms.iwae))
        self.add("log_p", f"log p(x), K = {self.num_particles}", likelihood_figure(score))

    def anneal(self, x: Batch, chosen: Tensor, score: LogLikelihood) -> LogLikelihood:
        """Return log p(x) with the values of the chosen data, which are x, by annealed importance sampling."""
        model, guide = self.programs.model, self.programs.guide
        there = ais(model, guide, x, _NUM_CHAINS, _NUM_TEMPERATURES, seed=self.seed, progress=self.progress)
        combined = score.replaced(chosen, there)
        count = f"{len(chosen)} of them"
        self.add("importance", self.labels["log_p"], self.figures["log_p"])
        self.add("importance_chosen", f"  {count}", likelihood_figure(score.rows(chosen)))
        self.add("annealed_chosen", f"  {count}, by AIS", likelihood_figure(there))
        self.add("log_p", f"log p(x), {count} by AIS", likelihood_figure(combined))
        heavy = score.is_heavy
        self.notes.append(
            f"Annealed importance sampling (AIS, {_NUM_CHAINS} chains, {_NUM_TEMPERATURES} temperatures) gave log p(x) "
            f"of {len(chosen)} data, {int(heavy[chosen].sum())} of the {int(heavy.sum())} with k̂ > {TRUSTED_KHAT}; "
            "importance sampling gave that of the others"
        )
        if there.caveat():
            self.notes.append(f"Of AIS, {there.caveat().removeprefix('† ')}")
        return combined

    def add_layers(self, terms: Terms) -> None:
        for name, kl in terms.kl.items():
            self.add(f"kl_{name}", f"KL of {name}", Figure.of(*kl))

    def add_gaps(self, x: Batch, score: LogLikelihood) -> None:
        first = score.rows(slice(len(x)))
        with pyro.validation_enabled(False):
            found = gaps_of(self.programs, x, first, self.seed, self.progress)
        for name, label in _GAPS.items():
            self.add(name, label, found[name])

    def add_training(self, x: Batch, test: Terms, test_score: LogLikelihood) -> None:
        """Add by how much training data do better: in all, by the decoder, and by the encoder."""
        terms, score = self.terms(x), self.log_p(x)
        self.add("train_test_gap", "train-test gap of the ELBO", Figure.of(*terms.elbo).minus(Figure.of(*test.elbo)))
        decoder = likelihood_figure(score).minus(likelihood_figure(test_score))
        self.add("train_test_gap_decoder", f"  the decoder's: of log p(x), K = {self.num_particles}", decoder)
        encoder = _loss(test_score, test).minus(_loss(score, terms))
        self.add("train_test_gap_encoder", "  the encoder's: of ELBO - log p(x)", encoder)


def _loss(score: LogLikelihood, terms: Terms) -> Figure:
    """Return the figure of log p(x) - ELBO."""
    elbo, error = terms.elbo
    return Figure.of(score.values - elbo, score.std_error.hypot(error), int(score.is_heavy.sum()))
