r"""The matrix of counts of an AnnData, checked: raw counts of molecules, and none of what is made of them.

A likelihood of counts gives 2.7 molecules no probability, and a cell without molecules has no library size l,

.. math:: x_{ng} \in \{0, 1, 2, \dots\}, \qquad l_n = \sum_g x_{ng} > 0 .

The rows of a sparse matrix stay sparse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_vae.data.arrays import check_array
from pyro_vae.data.sparse import check_sparse, is_sparse
from pyro_vae.runtime.foreign import comes_from

__all__ = ["check_anndata", "counts_of", "library_sizes"]

_EXACT = 2**24  # the first whole number whose successor float32 rounds


def check_anndata(adata: Any) -> None:
    """Raise unless ``adata`` is an AnnData in memory, with a cell and a gene or more.

    Raises
    ------
    TypeError
        For anything but an AnnData.
    ValueError
        For one that is backed by its file, or empty.
    """
    if not comes_from(adata, "anndata") or not hasattr(adata, "obs"):
        raise TypeError(
            f"adata: found {type(adata).__name__}, expected an AnnData: anndata.read_h5ad(path), or "
            "anndata.AnnData(counts) of a matrix (cells, genes)"
        )
    if adata.isbacked:
        raise ValueError("adata: found an AnnData backed by its file, expected one in memory, as adata.to_memory() is")
    if 0 in adata.shape:
        raise ValueError(f"adata: found the shape {adata.shape}, expected a cell and a gene or more")


def counts_of(adata: Any, layer: str | None) -> Any:
    """Return the counts ``(N, G)`` of an AnnData, a sparse matrix by rows or an array.

    Raises
    ------
    ValueError
        For a layer that there is not, and for numbers that are no counts, by cell and gene.
    """
    if layer is not None and layer not in adata.layers:
        layers = ", ".join(map(repr, adata.layers)) or "none"
        raise ValueError(f"layer: found {layer!r}, expected one of the layers of the AnnData, {layers}")
    name = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise ValueError(f"adata: found no X, expected layer= to name one of the layers {list(adata.layers)}")
    values = _summed(check_sparse(values, name)) if is_sparse(values) else check_array(np.asarray(values), name).numpy()
    stored: Any = values.data if is_sparse(values) else values
    wrong = (stored < 0) | (stored != np.floor(stored)) | (stored > _EXACT)
    if wrong.any():
        row, column = _place(values, wrong)
        found = values[row, column]
        where = f"{name}: found {found:g} for cell {adata.obs_names[row]!r} and gene {adata.var_names[column]!r}"
        if found > _EXACT:
            raise ValueError(f"{where}, expected at most {_EXACT} molecules, from where on float32 rounds")
        others = [each for each in adata.layers if each != layer]
        advice = f"pass one of the layers {others}" if others else "adata.raw.to_adata() may have them"
        kind = "negative, as scaled values are" if found < 0 else "no whole number, as log-normalised values are none"
        raise ValueError(f"{where}, {kind}; expected raw counts, layer=...: {advice}")
    return values


def _summed(rows: Any) -> Any:
    """Return a sparse matrix by rows whose entries are each stored once; what is stored twice is meant as the sum."""
    if rows.has_canonical_format:
        return rows
    rows = rows.copy()  # the caller's stays as it is
    rows.sum_duplicates()
    return rows


def _place(values: Any, wrong: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return the row and the column of the first wrong entry, which are those of a sparse matrix's stored ones."""
    first = int(wrong.reshape(-1).argmax())
    if is_sparse(values):
        return int(np.searchsorted(values.indptr, first, side="right")) - 1, int(values.indices[first])
    return first // values.shape[1], first % values.shape[1]


def library_sizes(adata: Any, counts: Any) -> npt.NDArray[np.float64]:
    """Return the sum of the counts of each cell, ``(N,)``.

    Raises
    ------
    ValueError
        For a cell without a count, by its name.
    """
    library = np.asarray(counts.sum(1, dtype=np.float64)).reshape(-1)
    if (empty := library == 0).any():
        cells = [str(name) for name in adata.obs_names[empty]]
        raise ValueError(
            f"adata: found no count in cell {cells[0]!r}{f' and {len(cells) - 1} more' if len(cells) > 1 else ''}, "
            "expected one or more: it tells nothing, scanpy.pp.filter_cells(adata, min_counts=1) leaves it out"
        )
    return library
