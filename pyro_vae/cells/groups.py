"""Two groups of cells, by the names of their categories, as masks, or as indices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_vae.runtime.foreign import comes_from

__all__ = ["Groups", "Indices", "two_groups"]

Indices = npt.NDArray[np.int64]


class Groups(NamedTuple):
    """The indices of the cells of two groups, and how many cells have no category and so belong to neither."""

    first: Indices
    second: Indices
    num_missing: int


def two_groups(adata: Any, group1: Any, group2: Any, groupby: str | None) -> Groups:
    """Return two groups of cells; all other cells are the second by default, but for those without a category.

    Raises
    ------
    ValueError
        For a column or a category that there is not, a mask or indices that do not fit, and groups that are empty or
        share a cell.
    """
    first = _indices(adata, group1, groupby, "group1")
    missing = np.arange(0) if groupby is None else adata.obs[groupby].isna().to_numpy().nonzero()[0]
    if group2 is None:
        second = np.setdiff1d(np.arange(adata.n_obs), np.concatenate([first, missing])).astype(np.int64)
        if not len(second):
            which = f"cells with a category in {groupby!r}" if len(missing) else "cells"
            raise ValueError(f"group1: found all {which}, expected a group and others to compare it with")
        return Groups(first, second, len(missing))
    second = _indices(adata, group2, groupby, "group2")
    if len(shared := np.intersect1d(first, second)):
        raise ValueError(
            f"group1, group2: found {len(shared)} cells in both, such as {adata.obs_names[shared[0]]!r}, expected none"
        )
    return Groups(first, second, len(missing))


def _indices(adata: Any, group: Any, groupby: str | None, name: str) -> Indices:
    if groupby is not None:
        return _of_categories(adata, group, groupby, name)
    values = np.asarray(group)
    if values.dtype.kind not in "biu" or values.ndim != 1:
        raise ValueError(
            f"{name}: found {type(group).__name__} without groupby, expected a mask or indices, or groupby= to name "
            "the column of adata.obs that has the groups"
        )
    if values.dtype.kind == "b":
        if len(values) != adata.n_obs:
            raise ValueError(f"{name}: found a mask of {len(values)} cells, expected {adata.n_obs}")
        if comes_from(group, "pandas") and hasattr(group, "index"):  # a series
            _check_index(group.index, adata, name)
        values = values.nonzero()[0]
    elif len(values) == adata.n_obs > 2 and set(values.tolist()) <= {0, 1}:  # else the cells 0 and 1 would be the group
        raise ValueError(f"{name}: found zeros and ones, one for each cell, expected a mask, {name}.astype(bool), or "
                         "indices")  # fmt: skip
    if not len(values) or values.min() < 0 or values.max() >= adata.n_obs:
        raise ValueError(f"{name}: found no cell, or indices outside of 0 to {adata.n_obs - 1}, expected cells")
    return np.unique(values).astype(np.int64)


def _check_index(index: Any, adata: Any, name: str) -> None:
    """Raise ``ValueError`` for a mask whose index names other cells, or has them in another order."""
    found, cells = list(map(str, index)), list(map(str, adata.obs_names))
    if found == cells:
        return
    if sorted(found) == sorted(cells):
        raise ValueError(f"{name}: found a series of the cells in another order, expected that of adata.obs_names")
    if type(index).__name__ != "RangeIndex" or (index.start, index.step) != (0, 1):  # else it was made without names
        row = next(row for row, (one, other) in enumerate(zip(found, cells, strict=True)) if one != other)
        raise ValueError(f"{name}: found a series whose index has {found[row]!r} in row {row}, expected "
                         f"{cells[row]!r}, as adata.obs_names; {name}.to_numpy() is taken by place")  # fmt: skip


def _of_categories(adata: Any, group: Any, groupby: str, name: str) -> Indices:
    if groupby not in adata.obs:
        raise ValueError(f"groupby: found {groupby!r}, expected a column of obs, one of {list(adata.obs.columns)}")
    has_one = adata.obs[groupby].notna().to_numpy()  # as text, a missing category would be called "nan"
    values = adata.obs[groupby][has_one].astype(str).to_numpy()
    names = [str(each) for each in ([group] if isinstance(group, str) or np.ndim(group) == 0 else group)]
    there = sorted(set(values))
    if not names or (unknown := [each for each in names if each not in there]):
        shown = ", ".join(map(repr, there[:8])) + ", ..." * (len(there) > 8)
        raise ValueError(f"{name}: found {unknown if names else 'no category'}, expected those of {groupby!r}: {shown}")
    return has_one.nonzero()[0][np.isin(values, names)].astype(np.int64)
