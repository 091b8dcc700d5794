"""Bounds from below and above of log p(x) of simulated data, as a sentence, a table, a figure and a data frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae.data.batch import Batch
from pyro_vae.display import Result, ResultTable, rounded, with_error
from pyro_vae.evaluation.estimates import LogLikelihood

__all__ = ["Sandwich"]


@dataclass(frozen=True, repr=False)
class Sandwich(Result):
    """Bounds from below and above of log p(x) of N data that a model simulated, nats.

    Attributes
    ----------
    forwards, backwards
        The estimates of both directions. Their ``values`` ``(N,)`` are lower and upper bounds in expectation, and
        their standard errors those of the moves. The backward chains of a datum all start from the same exact draw,
        whose choice is not in its standard error.
    data
        The simulated data, as the programs take them.
    """

    forwards: LogLikelihood
    backwards: LogLikelihood
    data: Batch

    @property
    def lower(self) -> float:
        """The mean lower bound."""
        return self.forwards.mean()

    @property
    def upper(self) -> float:
        """The mean upper bound."""
        return self.backwards.mean()

    @property
    def gap(self) -> float:
        """The mean of upper less lower bound; below zero by chance alone."""
        return self.upper - self.lower

    @property
    def gaps(self) -> Tensor:
        """Upper less lower bound of each datum, ``(N,)``."""
        return self.backwards.values - self.forwards.values

    @property
    def gap_std_errors(self) -> Tensor:
        """The Monte Carlo standard error of each of :attr:`gaps`, ``(N,)``."""
        return (self.forwards.std_error.square() + self.backwards.std_error.square()).sqrt()

    @property
    def gap_error(self) -> float:
        """The standard error of :attr:`gap`, from its spread over the data; NaN for a single one."""
        return (self.gaps.std() / len(self.gaps) ** 0.5).item() if len(self.gaps) > 1 else math.nan

    def __str__(self) -> str:
        mark = self.forwards.mark or self.backwards.mark
        figure = (
            f"log p(x) between {rounded(self.lower, self.gap_error)[0]} and {rounded(self.upper, self.gap_error)[0]} "
            f"nats, a gap of {with_error(self.gap, self.gap_error, mark)}, the mean of {len(self.gaps)} simulated data"
        )
        return "\n".join([figure, *self._caveats()])

    def plot(self) -> Any:
        """Return a figure of the two bounds of each datum, see :func:`pyro_vae.plots.sandwich`."""
        from pyro_vae.plots import sandwich as draw  # only here, as it needs matplotlib

        return draw(self)

    def _caveats(self) -> list[str]:
        return list(dict.fromkeys(filter(None, (self.forwards.caveat(), self.backwards.caveat()))))

    def _table(self) -> ResultTable:
        sides = (("lower bound", self.forwards), ("upper bound", self.backwards))
        rows = [(name, *rounded(side.mean(), side.mean_error())) for name, side in sides]
        rows = [(name, value, error + side.mark) for (name, value, error), (_, side) in zip(rows, sides, strict=True)]
        rows.append(("gap", *rounded(self.gap, self.gap_error)))
        title = f"log p(x), the mean of {len(self.gaps)} simulated data"
        return ResultTable(("", "nats per datum", "±"), rows, title, self._caveats())

    def _columns(self) -> dict[str, Any]:
        return {
            "lower": self.forwards.values,
            "lower_error": self.forwards.std_error,
            "upper": self.backwards.values,
            "upper_error": self.backwards.std_error,
            "gap": self.gaps,
            "gap_error": self.gap_std_errors,
        }
