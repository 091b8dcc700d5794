r"""What an evaluation found: figures with their errors, as a table, a web page's table and a file.

Each figure is a mean over N data, and has two errors. The Monte Carlo error is that of the draws, for these very data:
it falls with the number of particles. The other one is over the choice of the data: it falls with N, and contains the
first,

.. math:: \mathrm{se}_\text{Monte Carlo} = \frac1N \sqrt{\sum_n e_n^2}, \qquad
          \mathrm{se}_\text{data} = \frac{\mathrm{sd}(v_1, \dots, v_N)}{\sqrt N} .
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.display import Result, ResultTable, rounded
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.streaming import TRUSTED_KHAT, bias_caveat
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.files import write_text

__all__ = ["COLUMNS", "Evaluation", "Figure", "heavy_data", "likelihood_figure"]

COLUMNS = ("nats per datum", "± Monte Carlo", "± over data", "data")


class Figure(NamedTuple):
    """A mean over data in nats per datum, with its two standard errors; NaN where one is not known.

    ``num_heavy`` is the number of data among them whose weights are too heavy for the figure and its errors.
    """

    mean: float
    monte_carlo_error: float
    data_error: float
    num_data: int
    num_heavy: int = 0

    @classmethod
    def of(cls, values: Tensor, errors: Tensor, num_heavy: int = 0) -> Figure:
        """Return the figure of values and Monte Carlo errors of each datum, ``(N,)`` each."""
        n = len(values)
        data_error = values.std().item() / n**0.5 if n > 1 else math.nan
        return cls(values.mean().item(), errors.square().sum().sqrt().item() / n, data_error, n, num_heavy)

    def minus(self, other: Figure) -> Figure:
        """Return the difference to the figure of other data, on which both were estimated independently."""
        monte_carlo_error = math.hypot(self.monte_carlo_error, other.monte_carlo_error)
        data_error = math.hypot(self.data_error, other.data_error)
        num_heavy = self.num_heavy + other.num_heavy
        return Figure(self.mean - other.mean, monte_carlo_error, data_error, self.num_data, num_heavy)

    def cells(self) -> tuple[str, ...]:
        """Return what a table shows: a mark stands behind an error that is too small."""
        mark = "†" if self.num_heavy else ""
        known = [error for error in self[1:3] if not math.isnan(error)]
        mean, _ = rounded(self.mean, min(known, default=math.nan))
        errors = ["" if math.isnan(error) else rounded(self.mean, error)[1] for error in self[1:3]]
        return mean, errors[0] + mark, errors[1], str(self.num_data)


def heavy_data(score: LogLikelihood) -> Tensor:
    """Return the indices of the data whose Pareto k̂ is too high, the highest first."""
    order = score.khat.nan_to_num(-math.inf, math.inf, -math.inf).argsort(descending=True, stable=True)
    return order[: int((score.khat > TRUSTED_KHAT).sum())]


def likelihood_figure(score: LogLikelihood) -> Figure:
    """Return the figure of estimates of log p(x)."""
    return Figure.of(score.values, score.std_error, int(score.is_heavy.sum()))


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """The result of :func:`pyro_vae.evaluate`. ``print`` shows a table, and so does a notebook.

    ``evaluation["elbo"]`` is a :class:`~pyro_vae.evaluation.evaluations.Figure`. There are ``elbo``, ``iwae``,
    ``log_p`` and, for a site ``z``, ``kl_z``. The parts that can be left out have ``amortisation_gap_own``,
    ``approximation_gap_own``, the same with ``flow``, ``train_test_gap``, ``train_test_gap_decoder`` and
    ``train_test_gap_encoder``. Where annealed importance sampling was used, ``log_p`` contains it, ``importance`` is
    importance sampling alone, and ``annealed_chosen`` and ``importance_chosen`` are of the data that it was used for.

    Attributes
    ----------
    figures
        All of them by name, in the order of the table.
    labels
        What the table calls them.
    log_likelihood
        The estimates of log p(x) of each test datum: by annealed importance sampling for the ``annealed_data``, by
        importance sampling for the others.
    importance
        Those by importance sampling alone.
    elbos
        The evidence lower bound of each test datum, ``(N,)``.
    annealed_data
        The indices of the test data that annealed importance sampling was used for.
    notes
        Sentences on what was done, and on what was left out and why.
    """

    figures: dict[str, Figure]
    labels: dict[str, str]
    log_likelihood: LogLikelihood
    importance: LogLikelihood
    elbos: Tensor
    annealed_data: Tensor
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Figure:
        return self.figures[name]

    def share_heavy(self) -> float:
        """The share of the test data whose Pareto k̂ is above 0.7 under importance sampling; NaN if it is not known."""
        khat = self.importance.khat
        return math.nan if khat.isnan().any() else (khat > TRUSTED_KHAT).double().mean().item()

    def caveat(self) -> str:
        """Return a sentence if log p(x) of a test datum is not to be trusted, else ``""``."""
        return _caveat(self["log_p"]) or bias_caveat(self.log_likelihood.std_error)

    def sentences(self) -> list[str]:
        """Return what stands below the table."""
        num_data, num_heavy = len(self.elbos), len(heavy_data(self.importance))
        if self.importance.num_particles <= 20:
            share = "k̂ is not known: it takes more than 20 particles"
        elif num_unknown := int(self.importance.khat.isnan().sum()):
            share = f"k̂ is not known for {num_unknown} of {num_data} data"
        else:
            share = f"k̂ > {TRUSTED_KHAT} for {num_heavy} of {num_data} data ({100 * num_heavy / num_data:.1f} %)"
        marked = next((figure for figure in self.figures.values() if figure.num_heavy), None)
        caveat = bias_caveat(self.log_likelihood.std_error) if marked is None else _caveat(marked)
        return list(filter(None, [share, *self.notes, caveat]))

    def plot(self) -> Any:
        """Return a picture of the table with its errors, see :func:`pyro_vae.plots.estimates`."""
        from pyro_vae.plots import estimates  # only here, as it needs matplotlib

        return estimates(self)

    def _table(self) -> ResultTable:
        rows = [(self.labels[name], *each.cells()) for name, each in self.figures.items()]
        if self.caveat() and not self["log_p"].num_heavy:
            index = list(self.figures).index("log_p")
            label, mean, error, *rest = rows[index]
            rows[index] = (label, mean, f"{error}†", *rest)
        return ResultTable(("", *COLUMNS), rows, notes=self.sentences())

    def _columns(self) -> dict[str, Any]:
        rows = list(self.figures.values())
        columns = {field: [getattr(row, field) for row in rows] for field in Figure._fields}
        return {"name": list(self.figures), "label": [self.labels[name] for name in self.figures]} | columns

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: the figures, the share of heavy weights, indices and notes; ``None`` for NaN."""
        figures = {
            name: {key: _number(value) for key, value in each._asdict().items()} for name, each in self.figures.items()
        }
        return {
            "figures": figures,
            "khat_above_0.7": _number(self.share_heavy()),
            "annealed_data": self.annealed_data.tolist(),
            "notes": list(self.notes),
        }

    @checked
    def save(self, path: PathLike) -> None:
        """Write :meth:`as_dict` to a JSON file, whole or not at all."""
        write_text(path, json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _caveat(figure: Figure) -> str:
    if not figure.num_heavy:
        return ""
    return (
        f"† {figure.num_heavy} of {figure.num_data} data have a Pareto k̂ above {TRUSTED_KHAT}, or too low an ESS under "
        "AIS: the estimate is too low and its Monte Carlo ± too small"
    )
