r"""Data of which most entries are zero: rows stay sparse in memory and are made dense a batch at a time.

A matrix of N rows and D columns of which a share s is not zero takes

.. math:: 8\, s N D + 8 N \quad\text{bytes instead of}\quad 4 N D

in float32: for 100,000 cells of 20,000 genes and s = 0.05, 0.8 GB instead of 8 GB. A :class:`SparseSplit` is a
``Dataset``, so it goes wherever data go, through a ``DataLoader``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.runtime.foreign import comes_from

__all__ = ["Rows", "SparseSplit", "check_sparse", "is_sparse"]

Rows: TypeAlias = Any  # a CSR matrix or array of scipy, which comes without types

_EXACT = 2**24  # the first whole number whose successor float32 rounds


def is_sparse(x: object) -> bool:
    """Return whether an object is a sparse matrix or array of scipy."""
    return comes_from(x, "scipy") and hasattr(x, "tocsr")


def check_sparse(x: Any, name: str) -> Rows:
    """Return a sparse matrix or array ``(N, D)`` of finite real numbers by rows, in scipy's CSR format.

    Raises
    ------
    TypeError
        For numbers that are not real.
    ValueError
        If there is no datum or no column, or if a number is NaN or infinite.
    """
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{name}: found a sparse matrix of dtype {x.dtype}, expected real numbers")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name}: found a sparse matrix of shape {x.shape}, expected (N, D), both 1 or more")
    rows = x.tocsr()
    if rows.dtype.kind in "iu" and rows.nnz and (largest := np.abs(rows.data).max()) > _EXACT:
        raise ValueError(
            f"{name}: found the whole number {largest}, expected at most {_EXACT}, from where on float32 rounds; "
            "x.astype(float) keeps larger ones for programs in float64"
        )
    if rows.dtype.kind == "f" and not np.isfinite(rows.data).all():
        entry = int(np.isfinite(rows.data).argmin())
        where = int(np.searchsorted(rows.indptr, entry, side="right")) - 1, int(rows.indices[entry])
        raise ValueError(
            f"{name}: found {rows.data[entry]} at index {where} of a sparse matrix, expected finite numbers; "
            "missing entries are taken in dense arrays alone, by pyro_vae.pack and pyro_vae.observed_only"
        )
    return rows


class SparseSplit(Dataset[Tensor]):
    """N rows of a sparse matrix on the CPU, read as dense tensors; a map-style ``Dataset``.

    Parameters
    ----------
    values
        A sparse matrix or array of scipy, ``(N, D)``.
    labels
        The labels ``(N,)`` or ``None``; indexing never returns them.

    Raises
    ------
    TypeError, ValueError
        As in :func:`check_sparse`; also if there are not as many labels as rows.

    Examples
    --------
    >>> import scipy.sparse
    >>> split = SparseSplit(scipy.sparse.csr_array([[0, 3, 0], [1, 0, 0]]))
    >>> split
    SparseSplit(2 x (3,), 33 % of the entries stored, on cpu)
    >>> split[0]
    tensor([0., 3., 0.])
    """

    def __init__(self, values: Any, *, labels: Tensor | None = None) -> None:
        self.values, self.labels = check_sparse(values, "values"), labels
        if labels is not None and len(labels) != len(self):
            raise ValueError(f"labels: found {len(labels)} labels for {len(self)} data, expected one a datum")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data, ``(N, D)``."""
        return tuple(map(int, self.values.shape))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.shape[1:]

    def mean(self) -> Tensor:
        """Return the mean of the data, ``(D,)`` in float32."""
        return torch.from_numpy(np.asarray(self.values.sum(0, dtype=np.float64)).reshape(-1) / len(self)).float()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor | npt.NDArray[Any] | list[int]) -> Tensor:
        if isinstance(index, (int, np.integer)):
            return self._dense([int(index)])[0].float()
        return self._dense(index.numpy() if isinstance(index, Tensor) else index).float()

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Return several rows at once, as a ``DataLoader`` asks for them; float64 stays so."""
        return list(self._dense(indices))

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Return several rows as one tensor, ``(B, D)``; float64 stays so."""
        return self._dense(indices)

    def _dense(self, rows: Any) -> Tensor:
        dtype = np.float64 if self.values.dtype == np.float64 else np.float32
        return torch.from_numpy(self.values[rows].toarray().astype(dtype, copy=False))  # (B, D)

    def __repr__(self) -> str:
        share = self.values.nnz / (len(self) * self.shape[1])
        return f"SparseSplit({len(self)} x {self.data_shape}, {share:.0%} of the entries stored, on cpu)".replace(
            "%", " %"
        )
