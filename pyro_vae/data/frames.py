r"""The columns of a table as an array ``(N, D)``, from frames of pandas or polars.

A table goes into an array if every column holds numbers and no entry is missing. Any other column is refused by its
name: its codes or gaps are no numbers, and ``pyro_vae.Table`` models them as what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_vae.runtime.foreign import comes_from

__all__ = ["column", "is_frame", "numbers_of", "without"]

_MOST_SHOWN = 5


def is_frame(x: object) -> bool:
    """Return whether an object is a data frame of pandas or polars."""
    return (comes_from(x, "pandas") or comes_from(x, "polars")) and type(x).__name__ == "DataFrame"


def column(frame: Any, name: str) -> npt.NDArray[Any]:
    """Return a column as an array, categories by their names.

    Raises
    ------
    ValueError
        If there is no such column.
    """
    if name not in frame.columns:
        raise ValueError(f"labels: found {name!r}, expected one of the columns {_listed(map(repr, frame.columns))}")
    values = frame[name]
    if comes_from(frame, "polars"):
        return np.array(values.to_list(), dtype=object)
    return np.array([None if missing else value for value, missing in zip(values, values.isna(), strict=True)], object)


def without(frame: Any, name: str) -> Any:
    """Return a frame without a column."""
    return frame.drop(name) if comes_from(frame, "polars") else frame.drop(columns=name)


def numbers_of(frame: Any) -> npt.NDArray[Any]:
    """Return the columns of a frame as an array ``(N, D)``: float32 if they all are, else float64.

    Raises
    ------
    TypeError
        If a column holds anything but numbers; the message names it.
    ValueError
        If an entry is missing or infinite; the message names the columns.
    """
    columns = list(_columns(frame))
    table = "pyro_vae.Table.from_frame(frame) takes numbers, counts, categories and missing entries"
    if not columns:
        raise ValueError(f"data: found a frame of {len(frame)} rows without columns, expected one column or more")
    if others := [f"{name!r} ({values.dtype})" for name, values, is_number, _ in columns if not is_number]:
        raise TypeError(f"data: found columns that hold no numbers, {_listed(others)}, expected numbers; {table}")
    if gaps := [f"{name!r} ({missing})" for name, _, _, missing in columns if missing]:
        raise ValueError(
            f"data: found missing entries in columns, {_listed(gaps)} of {len(frame)} rows, expected none; {table}, "
            "and pyro_vae.pack(frame.to_numpy()) keeps a mask beside numbers, for the programs of "
            "pyro_vae.observed_only"
        )
    is_single = all(str(values.dtype).lower() == "float32" for _, values, _, _ in columns)
    found = np.empty((len(frame), len(columns)), np.float32 if is_single else np.float64)
    for index, (_, values, _, _) in enumerate(columns):
        found[:, index] = values.to_numpy()
    finite = [bool(np.isfinite(values).all()) for values in found.T]
    if not all(finite):
        infinite = [repr(name) for (name, *_), good in zip(columns, finite, strict=True) if not good]
        raise ValueError(f"data: found infinite numbers in the columns {_listed(infinite)}, expected finite numbers")
    return found


def _columns(frame: Any) -> Iterator[tuple[Any, Any, bool, int]]:
    """Yield each column: its name, its values, whether they are numbers, and how many are missing."""
    if comes_from(frame, "polars"):
        for values in frame.get_columns():
            is_number = values.dtype.is_numeric() or str(values.dtype) == "Boolean"
            num_nan = int(values.is_nan().sum()) if values.dtype.is_float() else 0
            yield values.name, values, is_number, values.null_count() + num_nan
    else:
        for index, name in enumerate(frame.columns):
            values = frame.iloc[:, index]  # two columns may have one name
            yield name, values, values.dtype.kind in "biuf", int(values.isna().sum())


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    rest = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return ", ".join(found[:_MOST_SHOWN]) + rest
