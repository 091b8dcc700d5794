"""What a program says of cells, as data frames by the names of cells and genes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from pyro_vae.cells.design import Design
from pyro_vae.cells.differential import FoldChanges, summary
from pyro_vae.cells.expression import caveat
from pyro_vae.cells.groups import Groups
from pyro_vae.runtime.optional import imported, install

__all__ = ["frame", "frame_of_changes", "warn_of"]


def frame(name: str, values: Any, index: Any, columns: Any = None) -> Any:
    """Return a data frame; ``name`` is that of the function that needs pandas."""
    pandas = imported("pandas", "pandas", name, install("cells"))
    return pandas.DataFrame(values, index=pandas.Index(index), columns=columns)


def warn_of(name: str, found: Any) -> Any:
    """Warn of the caveat of a data frame, unless K is 1, which asks for draws from the guide; return the frame."""
    if found.attrs["caveat"] and found.attrs["num_particles"] > 1:
        warnings.warn(f"{name}: {found.attrs['caveat']}", UserWarning, stacklevel=4)
    return found


def frame_of_changes(
    changes: FoldChanges, matrix: Any, groups: Groups, design: Design, settings: dict[str, Any]
) -> Any:
    """Return fold changes with a row for each gene.

    Parameters
    ----------
    changes
        Draws of log fold changes.
    matrix
        The matrix of the cells, whose counts come first.
    groups
        The cells of both groups.
    design
        The names of the genes.
    settings
        What goes into ``attrs``, ``delta`` and ``num_particles`` among it.
    """
    totals = [np.asarray(matrix[group].sum(0, dtype=np.float64)).reshape(-1) for group in groups[:2]]
    counts = [total[: len(design.genes)] / len(group) for total, group in zip(totals, groups[:2], strict=True)]
    columns = summary(changes, counts, settings["delta"], design.typical_library)
    found = frame("differential_expression", columns, design.genes)
    found.attrs = settings | {
        "num_missing": groups.num_missing,
        "ess": changes.ess.double().mean().item(),
        "caveat": caveat(changes.ess, settings["num_particles"]),
    }
    return found
