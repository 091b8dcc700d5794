"""Data frames as people have them: pandas or polars, checked before anything is made of them.

pandas is imported when a frame is at hand, or is to be made, and not before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pyro_vae.runtime.optional import imported, install

__all__ = ["as_frame", "check_names", "pandas_for"]

_FIX = install("tables")


def pandas_for(name: str) -> Any:
    """Import pandas for an argument or a method, ``name`` in the message where there is none."""
    return imported("pandas", "pandas", name, _FIX)


def as_frame(df: Any, name: str = "df") -> Any:
    """Return a pandas or polars frame as one of pandas, with a row and a column or more, and names that differ.

    Raises
    ------
    TypeError
        For anything else, such as an array, and for names that are neither strings nor integers.
    ValueError
        For an empty frame, or a name that two columns have.
    """
    pandas = pandas_for(name)
    module = type(df).__module__.partition(".")[0]
    if module == "polars":
        if not hasattr(df, "to_pandas"):
            raise TypeError(f"{name}: found polars.{type(df).__name__}, expected a frame: {name}.collect()")
        imported("pyarrow", "pyarrow", name, _FIX)
        df = df.to_pandas()
    if not isinstance(df, pandas.DataFrame):
        raise TypeError(
            f"{name}: found {type(df).__name__}, expected a frame of pandas or polars: pandas.DataFrame({name}), with "
            "the columns' names"
        )
    if 0 in df.shape:
        raise ValueError(f"{name}: found {df.shape[0]} rows and {df.shape[1]} columns, expected one of each or more")
    strange = next((each for each in df.columns if not isinstance(each, (str, int)) or isinstance(each, bool)), None)
    if strange is not None:
        raise TypeError(f"{name}: found the column name {strange!r}, expected a string or an integer: df.columns = ...")
    twice = next((each for each, number in Counter(df.columns).items() if number > 1), None)
    if twice is not None:
        raise ValueError(
            f"{name}: found {Counter(df.columns)[twice]} columns of the name {twice!r}, expected names that differ: "
            "df.columns = ..."
        )
    return df


def check_names(df: Any, names: Sequence[str | int], name: str = "df") -> None:
    """Raise ``ValueError`` unless a frame has some columns and no others, in any order."""
    lacking = [each for each in names if each not in df.columns]
    others = [each for each in df.columns if each not in names]
    if lacking or others:
        found = [f"no {lacking}"] * bool(lacking) + [f"further columns {others}"] * bool(others)
        raise ValueError(f"{name}: found {' and '.join(found)}, expected the columns of the table, df[table.names]")
