r"""Imputed numbers as frames: categories by their names and probabilities, numbers in their units.

A standardised number and its standard error go back by :math:`v = m + s x` and :math:`\mathrm{se}_v = s\,
\mathrm{se}_x`, for :math:`\mathbb{E}` is linear. The most probable category is the imputation with the fewest errors;
its probability says how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_vae.evaluation.imputation import Imputation
from pyro_vae.evaluation.streaming import caveat
from pyro_vae.tables.columns import Column
from pyro_vae.tables.frames import pandas_for
from pyro_vae.tables.indicators import from_indicators
from pyro_vae.tables.likelihoods import num_categories_of

__all__ = ["ImputedTable", "frame_of", "imputed_table"]


class ImputedTable(NamedTuple):
    """What :meth:`Table.imputation` found, all frames with the rows of the given one.

    ``frame``: the given frame, filled in. A real number is its posterior mean, a count that mean rounded, a category
    the most probable one. ``mean``, ``std_error``: posterior means of reals and counts in their units, and their Monte
    Carlo standard errors, 0 where an entry was observed. ``probabilities``: for each column of categories a frame of
    their probabilities, 0 and 1 where it was observed. ``samples``: frames whose missing entries are drawn. ``ess``,
    ``khat``: how far to trust the rows, as in :class:`pyro_vae.Imputation`.
    """

    frame: Any
    mean: Any
    std_error: Any
    probabilities: dict[str | int, Any]
    samples: list[Any]
    ess: Tensor
    khat: Tensor

    def caveat(self) -> str:
        """Return a sentence where the weights are too heavy, see :func:`pyro_vae.evaluation.streaming.caveat`."""
        return caveat(self.khat)


def frame_of(columns: Sequence[Column], x: npt.NDArray[np.float64], index: Any) -> Any:
    """Return numbers ``(N, D)``, NaN where missing, as a frame of the columns' types."""
    pandas, missing = pandas_for("unpack"), np.isnan(x)
    series = {
        column.name: column.decode(x[:, place], missing[:, place], pandas) for place, column in enumerate(columns)
    }
    frame = pandas.DataFrame(series)
    return frame if index is None else frame.set_axis(index)


def imputed_table(columns: Sequence[Column], df: Any, observed: Tensor, found: Imputation) -> ImputedTable:
    """Return what was found of indicators ``(N, F)`` as frames; ``observed`` is ``(N, D)``."""
    pandas, numbers, kept = pandas_for("imputation"), num_categories_of(columns), observed.numpy()

    def filled(x: Tensor) -> Any:
        """Return a frame with the given entries where there are some, to the last bit."""
        frame = frame_of(columns, _numpy(from_indicators(x, numbers)), df.index)
        for place, column in enumerate(columns):
            series, there = frame[column.name].copy(), kept[:, place]
            series[there] = df[column.name][there].astype(series.dtype).array
            frame[column.name] = series
        return frame

    means, errors, probabilities = {}, {}, {}
    pieces = [_numpy(part).T for part in (found.mean, found.std_error)]
    ends = np.cumsum([number or 1 for number in numbers])
    for column, end, number, there in zip(columns, ends, numbers, kept.T, strict=True):
        mean, error = (part[end - (number or 1) : end] for part in pieces)  # (C or 1, N)
        if column.categories:
            shares = mean if number else np.concatenate([1 - mean, mean])
            names = pandas.Index(column.categories)
            probabilities[column.name] = pandas.DataFrame(shares.T, index=df.index, columns=names)
        else:
            given = pandas.to_numeric(df[column.name].where(there, 0.0)).to_numpy(np.float64)
            means[column.name] = np.where(there, given, column.in_units(mean[0]))
            errors[column.name] = error[0] * (column.scale if column.kind == "real" else 1.0)
    return ImputedTable(
        filled(found.mean),
        pandas.DataFrame(means, index=df.index),
        pandas.DataFrame(errors, index=df.index),
        probabilities,
        [filled(sample) for sample in found.samples],
        found.ess,
        found.khat,
    )


def _numpy(x: Tensor) -> npt.NDArray[np.float64]:
    return x.double().cpu().numpy()
