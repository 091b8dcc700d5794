r"""Which kind a column is of, decided by its entries; ``kinds`` overrides it.

=====================================================================  ===========
entries                                                                kind
=====================================================================  ===========
booleans; numbers that are 0 or 1                                      ``binary``
strings, pandas categories                                             ``nominal``
few different whole numbers from 0 on, each five times or more         ``nominal``
other whole numbers from 0 on, whose variance is at least their mean   ``count``
all other numbers                                                      ``real``
=====================================================================  ===========

Few are at most ten, and five times is meant on the average. Counts of events vary as much as a Poisson distribution, or
more, and a year of birth does not. Beyond 1,000 whole numbers are real: their steps no longer matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from pyro_vae.tables.columns import Column, Kind, as_numbers, check_counts, refuse_column

__all__ = ["check_kinds", "column_of"]

_MOST_CODES, _LARGEST_COUNT = 10, 1000
_FAMILIES = {"boolean": "booleans", "string": "strings", "categorical": "categories"} | dict.fromkeys(
    ("integer", "floating", "mixed-integer-float", "decimal"), "numbers"
)
_DATES = ("date", "datetime", "datetime64", "time", "timedelta", "timedelta64", "period")


def check_kinds(kinds: Mapping[Any, Any] | None, names: list[Any]) -> dict[Any, Kind]:
    """Return the kinds that a user gave, each of a column that there is.

    Raises
    ------
    ValueError, TypeError
        For another name or kind, and for anything but a dictionary.
    """
    if kinds is not None and not isinstance(kinds, Mapping):
        raise TypeError(f"kinds: found {type(kinds).__name__}, expected a dictionary, such as {{'age': 'real'}}")
    for name, kind in (kinds or {}).items():
        if name not in names:
            raise ValueError(f"kinds: found the column {name!r}, expected one of {', '.join(map(repr, names))}")
        if kind not in get_args(Kind):
            raise ValueError(f"kinds[{name!r}]: found {kind!r}, expected one of {', '.join(map(repr, get_args(Kind)))}")
    return dict(kinds or {})


def column_of(series: Any, kind: Kind | None, pandas: Any) -> Column:
    """Return the column of a pandas series, of a given kind or of the one in the table above.

    Raises
    ------
    ValueError
        If nothing is observed, all is the same, or the entries are neither numbers nor categories, or not of the kind.
    """
    name = series.name
    observed = series.dropna()
    drop = f"leave it out, df.drop(columns={name!r})"
    if len(observed) == 0:
        refuse_column(name, f"no entry, all {len(series)} are missing", f"one or more that is there: {drop}")
    family = _family(observed, pandas)
    values = observed.astype(object).to_numpy()
    numbers = as_numbers(name, values) if family == "numbers" else None
    if (first := values[0]) is not None and (values == first).all():
        refuse_column(name, f"{first!r} in all rows", f"entries that differ: {drop}")
    if kind is None:
        kind = _kind_of(numbers) if numbers is not None else "binary" if family == "booleans" else "nominal"
        if family == "strings" and len(values) > _MOST_CODES and len(set(values)) == len(values):
            refuse_column(
                name,
                f"{len(values)} strings that all differ",
                f"categories that recur: {drop}, or kinds={{{name!r}: 'nominal'}} if it is to be learned",
            )
    shared: dict[str, Any] = {
        "name": name, "kind": kind, "dtype": str(series.dtype), "missing": 1 - len(observed) / len(series)
    }  # fmt: skip
    if kind in ("real", "count"):
        if numbers is None:
            refuse_column(name, family, f"numbers for the kind {kind!r}: 'nominal' takes {family}")
        if kind == "count":
            check_counts(name, numbers)
        low, high, mean, scale = map(float, (numbers.min(), numbers.max(), numbers.mean(), numbers.std()))
        if not (np.isfinite(scale) and scale > 0):
            refuse_column(name, f"the standard deviation {scale:g}", "numbers whose square float64 can hold")
        return Column(**shared, low=low, high=high, mean=mean, scale=scale)
    categories, ordered = _categories(observed, values, family)
    if kind == "binary" and len(categories) != 2:
        refuse_column(name, f"{len(categories)} categories", "two for the kind 'binary': 'nominal' takes more")
    return Column(**shared, categories=categories, ordered=ordered)


def _family(observed: Any, pandas: Any) -> str:
    found = pandas.api.types.infer_dtype(observed, skipna=True)
    if found not in _FAMILIES:  # of a type of arrow's too, by its entries
        found = pandas.api.types.infer_dtype(observed.astype(object), skipna=True)
    if found in _DATES:
        refuse_column(observed.name, "dates or times", "numbers, such as days, (df[...] - df[...].min()).dt.days")
    if found not in _FAMILIES:
        kinds = sorted({type(value).__name__ for value in observed})
        refuse_column(observed.name, f"entries of type {', '.join(kinds)}", "numbers, booleans or strings, of one type")
    return _FAMILIES[found]


def _kind_of(numbers: npt.NDArray[np.float64]) -> Kind:
    different = len(np.unique(numbers))
    is_whole = bool((numbers == np.floor(numbers)).all()) and numbers.min() >= 0
    if is_whole and different == 2 and numbers.max() == 1:
        return "binary"
    if is_whole and different <= min(_MOST_CODES, len(numbers) / 5):
        return "nominal"
    return "count" if is_whole and numbers.max() <= _LARGEST_COUNT and numbers.var() >= numbers.mean() else "real"


def _categories(observed: Any, values: npt.NDArray[Any], family: str) -> tuple[tuple[Any, ...], bool]:
    """Return the categories, those that pandas knows or those that occur, sorted; and whether they have an order."""
    if family == "categories":
        found = observed.cat.categories.tolist()
        if not all(isinstance(each, (str, bool, int, float)) for each in found):
            kinds = sorted({type(each).__name__ for each in found})
            expected = "strings, numbers or booleans: df[...].cat.rename_categories(str)"
            refuse_column(observed.name, f"categories of type {', '.join(kinds)}", expected)
        return tuple(found), bool(observed.cat.ordered)
    return tuple(sorted({value.item() if isinstance(value, np.generic) else value for value in values})), False
