"""What a program says of cells, as data frames by the names of cells and genes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from pyro_vae.cells.design import Design
from pyro_vae.cells.differential import FoldChanges, summary
from pyro_vae.cells.expression import MeanExpression, caveat
from pyro_vae.cells.groups import Groups
from pyro_vae.runtime.optional import imported, install

__all__ = ["frame", "frame_of_changes", "frames_of_expression"]


def frame(name: str, values: Any, index: Any, columns: Any = None) -> Any:
    """Return a data frame; ``name`` is that of the function that needs pandas."""
    pandas = imported("pandas", "pandas", name, install("cells"))
    return pandas.DataFrame(values, index=pandas.Index(index), columns=columns)


def frames_of_expression(found: MeanExpression, library: Any, num_particles: int, cells: Any, genes: list[str]) -> Any:
    """Return posterior means of ρ times library sizes, with a row for each cell; with errors, a pair of frames."""
    attrs = {
        "num_particles": num_particles,
        "ess": found.ess.double().mean().item(),
        "caveat": caveat(found.ess, num_particles),
    }
    mean = frame("normalized_expression", found.mean.numpy() * library, cells, genes)
    mean.attrs = attrs
    if found.std_error is None:
        return mean
    std_error = frame("normalized_expression", found.std_error.numpy() * library, cells, genes)
    std_error.attrs = dict(attrs)
    _warn("normalized_expression", attrs)
    return mean, std_error


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
    _warn("differential_expression", found.attrs)
    return found


def _warn(name: str, attrs: dict[str, Any]) -> None:
    """Warn of the caveat in the ``attrs`` of a frame, unless K is 1, which asks for draws from the guide."""
    if attrs["caveat"] and attrs["num_particles"] > 1:
        warnings.warn(f"{name}: {attrs['caveat']}", UserWarning, stacklevel=5)
