r"""An AnnData -> counts and covariates of its cells in one matrix, sparse by rows if the counts are.

.. math:: \text{AnnData} \to (x \mid l, c, r) \in \mathbb{R}^{N \times (G + 1 + C + R)}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_vae.cells.counts import check_anndata, counts_of, library_sizes
from pyro_vae.cells.design import Design
from pyro_vae.data.sparse import is_sparse
from pyro_vae.runtime.optional import imported, install

__all__ = ["check_as_read", "read_cells"]


def read_cells(
    adata: Any,
    layer: str | None,
    batch: str | None,
    categorical: Sequence[str],
    continuous: Sequence[str],
    design: Design | None,
) -> tuple[Design, Any]:
    """Return the design and the matrix of cells, whose genes may be in another order than the given design's.

    Raises
    ------
    TypeError, ValueError
        As in :meth:`pyro_vae.Cells.from_anndata`.
    """
    check_anndata(adata)
    if design is not None:
        if keys := [*([] if batch is None else [batch]), *categorical, *continuous]:
            raise ValueError(f"design: found one and the keys {keys}, expected one of the two")
        adata = _with_genes(adata, design)
    counts = counts_of(adata, layer)
    library = library_sizes(adata, counts)
    if design is None:
        design = Design.fit(adata, batch, categorical, continuous, library)
    covariates = design.covariates(adata, library).astype(np.float32)
    if not is_sparse(counts):
        return design, np.concatenate([counts.astype(np.float32), covariates], 1)
    sparse = imported("scipy.sparse", "scipy", "adata", install("cells"))
    return design, sparse.hstack([counts.astype(np.float32), sparse.csr_array(covariates)], format="csr")


def check_as_read(adata: Any, obs_names: Any) -> None:
    """Raise ``ValueError`` unless an AnnData still has the cells that were read, which it can lose in place."""
    found, again = np.asarray(adata.obs_names), "that were read; make Cells anew"
    if len(found) != len(obs_names):
        raise ValueError(f"adata: found {len(found)} cells, expected the {len(obs_names)} {again}")
    if len(changed := (found != np.asarray(obs_names)).nonzero()[0]):
        row = int(changed[0])
        raise ValueError(f"adata: found {found[row]!r} in row {row}, expected {obs_names[row]!r}, as the names {again}")


def _with_genes(adata: Any, design: Design) -> Any:
    """Return cells with their genes in the order of a design.

    Raises
    ------
    ValueError
        If they do not have the same genes.
    """
    names = list(map(str, adata.var_names))
    if names == list(design.genes):
        return adata
    lacking, others = set(design.genes) - set(names), set(names) - set(design.genes)
    if lacking or others or len(names) != len(design.genes):
        raise ValueError(
            f"adata: found {len(names)} genes, of which {len(others)} are not in the design, which has {len(lacking)} "
            f"others, expected its {len(design.genes)} genes in any order, adata[:, list(design.genes)]"
        )
    return adata[:, list(design.genes)]
