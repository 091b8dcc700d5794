r"""Cells of an AnnData: their counts and covariates as data of a program, and what it says of them by their names.

.. math:: \text{AnnData} \to (x, l, s) \to \texttt{CellVAE} \to \mathbb{E}[z | x, l, s],\quad \rho,\quad
          \beta,\quad \log p(x | l, s)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.cells.design import Design
from pyro_vae.cells.differential import fold_changes
from pyro_vae.cells.expression import mean_expression
from pyro_vae.cells.frames import frame, frame_of_changes, frames_of_expression
from pyro_vae.cells.groups import two_groups
from pyro_vae.cells.program import CellVAE
from pyro_vae.cells.reading import check_as_read, read_cells
from pyro_vae.data.sparse import SparseSplit, is_sparse
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.likelihoods.output import TwoOrMore
from pyro_vae.runtime.arguments import NonNegativeNumber, PositiveInteger, PositiveNumber, Seed, checked

__all__ = ["Cells"]


@dataclass(frozen=True, eq=False, repr=False)
class Cells:
    """The cells of an AnnData, their :class:`~pyro_vae.cells.design.Design` and their matrix.

    :meth:`from_anndata` makes them. The matrix has counts and covariates ``(N, width)`` in float32, and is sparse by
    rows if the counts are. It is a copy: once the AnnData has other cells, all that goes by their names is refused.

    Examples
    --------
    >>> import anndata, numpy as np, pyro_vae
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (60, 5)).astype("float32"))
    >>> adata.obs["batch"] = ["one", "two"] * 30
    >>> cells = Cells.from_anndata(adata, batch_key="batch")
    >>> vae = cells.program(latent_dim=2, hidden_dims=(8,))
    >>> history = pyro_vae.fit(vae.model, vae.guide, cells.data, num_epochs=2, batch_size=20, progress=False)
    >>> cells.encode(vae, key="X_pyro_vae").shape, adata.obsm["X_pyro_vae"].shape
    ((60, 2), (60, 2))
    >>> cells
    Cells(60 x 5 genes; batch: 'one', 'two'; no continuous covariates)
    """

    adata: Any
    design: Design
    matrix: Any
    obs_names: Any  # as they were read
    layer: str | None = None

    @classmethod
    @checked
    def from_anndata(
        cls,
        adata: Any,
        layer: str | None = None,
        batch_key: str | None = None,
        categorical_covariate_keys: Sequence[str] = (),
        continuous_covariate_keys: Sequence[str] = (),
        design: Design | None = None,
    ) -> Cells:
        """Read counts and covariates.

        Parameters
        ----------
        adata
            An AnnData of raw counts, dense or sparse.
        layer
            The layer with the counts, ``None`` for ``adata.X``.
        batch_key
            The column of ``adata.obs`` that names the batch of each cell.
        categorical_covariate_keys, continuous_covariate_keys
            The columns of further covariates, such as the donor, and the age.
        design
            The design of other cells, to code these alike; the keys are its own then.

        Raises
        ------
        TypeError
            For anything but an AnnData.
        ValueError
            For counts that are none, a cell without a count, two genes of one name, other genes than the design's, and
            covariates that are missing, are the same in all cells, or do not fit the design.
        """
        keys = batch_key, categorical_covariate_keys, continuous_covariate_keys
        design, matrix = read_cells(adata, layer, *keys, design)
        return cls(adata, design, matrix, adata.obs_names, layer)

    def of(self, adata: Any) -> Cells:
        """Return other cells under the same design, such as test data: ``cells.of(adata[rows])``."""
        return Cells.from_anndata(adata, self.layer, design=self.design)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __repr__(self) -> str:
        return f"Cells({len(self)} x {self.design})"

    @property
    def data(self) -> SparseSplit | Tensor:
        """The data for :func:`pyro_vae.fit`, :func:`pyro_vae.log_likelihood` and so on, ``(N, width)``."""
        return SparseSplit(self.matrix) if is_sparse(self.matrix) else torch.from_numpy(self.matrix)

    def program(self, latent_dim: PositiveInteger = 10, **options: Any) -> CellVAE:
        """Return a program of these cells; further options are those of :class:`pyro_vae.CellVAE`."""
        if options.get("inverse_dispersion") == "gene-batch" and not self.design.batches:  # another covariate's codes
            raise ValueError("inverse_dispersion: found 'gene-batch' without a batch_key, expected 'gene'")
        own: dict[str, Any] = {"typical_library": self.design.typical_library, "design": self.design.checksum}
        return CellVAE(latent_dim=latent_dim, **self.design.layout._asdict(), **own, **options)

    @checked
    def encode(self, vae: CellVAE, *, key: str | None = None, batch_size: PositiveInteger = 1000) -> Any:
        """Return the posterior means ``(N, latent_dim)`` as an array; with ``key``, also put them in ``adata.obsm``.

        Raises
        ------
        ValueError
            With a ``key``, if the AnnData is a view of another one, or no longer has the cells that were read.
        """
        self.design.check(vae.layout, vae.design)
        if key is not None:
            check_as_read(self.adata, self.obs_names)
            if self.adata.is_view:
                raise ValueError("key: found cells that are a view of an AnnData, expected a copy, adata[rows].copy()")
        found = vae.encode(self.data, batch_size=batch_size).cpu().numpy()
        if key is not None:
            self.adata.obsm[key] = found
        return found

    @checked
    def normalized_expression(
        self,
        vae: CellVAE,
        library_size: PositiveNumber | Literal["observed"] = 1e4,
        *,
        batch: str | None = None,
        genes: Sequence[str] | None = None,
        num_particles: PositiveInteger = 25,
        return_error: bool = False,
        seed: Seed | None = None,
    ) -> Any:
        """Return the posterior mean expression of genes, a frame ``(N, genes)``, see :mod:`pyro_vae.cells.expression`.

        Parameters
        ----------
        vae
            The program.
        library_size
            The sum of a row over all genes: a number, or ``"observed"``, that of each cell.
        batch
            The batch in which all cells are to be seen; by default each is in its own.
        genes
            The names of the genes to return; by default all, which takes 4 bytes a cell and gene.
        num_particles, seed
            K, the number of latents drawn for a cell, and the seed of the draws.
        return_error
            Whether to return a second frame, with the Monte Carlo standard errors.

        Raises
        ------
        ValueError
            For a batch or gene that there is not, a program of other cells, and an AnnData that no longer has these.
        """
        self._check(vae)
        code, places = None if batch is None else self.design.code_of(batch), self.design.places(genes)
        found = mean_expression(vae, self._rows, len(self), code, places, num_particles, seed, return_error)
        end = len(self.design.genes)  # of the counts, behind which the library size is
        library = self._rows(slice(None), slice(end, end + 1)).numpy() if library_size == "observed" else library_size
        names = [self.design.genes[place] for place in places]
        return frames_of_expression(found, library, num_particles, self.obs_names, names)

    @checked
    def differential_expression(
        self,
        vae: CellVAE,
        group1: Any,
        group2: Any = None,
        groupby: str | None = None,
        *,
        delta: PositiveNumber = 0.25,
        batch: str | None = None,
        pseudocount: NonNegativeNumber = 0.0,
        num_samples: TwoOrMore = 2000,
        num_particles: PositiveInteger = 10,
        seed: Seed | None = None,
    ) -> Any:
        """Compare the expression of genes in two groups of cells, and return a frame with a row for each gene.

        :mod:`pyro_vae.cells.differential` has the formulas and lists the columns and what is in ``attrs``.

        Parameters
        ----------
        vae
            The program.
        group1, group2
            Categories of the column ``groupby``, each a name or a list; without it, masks ``(N,)`` or indices. By
            default all other cells are the second group. Cells without a category belong to neither.
        groupby
            A column of ``adata.obs``.
        delta
            The least log₂ fold change that counts as one.
        batch
            The batch in which all cells are seen; by default that of a random cell of either group, for both alike.
        pseudocount
            What is added to the shares ρ, which add up to 1. It damps the changes of genes that are hardly expressed.
        num_samples, num_particles, seed
            M, the number of draws, each of 4 bytes a gene; K, of which one is taken by its weight, and the only one is
            from the guide; and the seed of the draws.

        Raises
        ------
        ValueError
            For groups that are empty or share a cell, names that there are not, a program of other cells, and an
            AnnData that no longer has these.
        """
        self._check(vae)
        groups = two_groups(self.adata, group1, group2, groupby)
        code = None if batch is None else self.design.code_of(batch)
        sizes: dict[str, Any] = {"num_samples": num_samples, "num_particles": num_particles, "pseudocount": pseudocount}
        changes = fold_changes(vae, self._rows, (groups.first, groups.second), code=code, seed=seed, **sizes)
        settings = sizes | {"delta": delta, "batch": batch}
        return frame_of_changes(changes, self.matrix, groups, self.design, settings)

    def log_likelihood(self, vae: CellVAE, num_particles: PositiveInteger = 5000, **options: Any) -> Any:
        """Return log p(x | l, s) of each cell with its error in nats, a frame with a row for each cell.

        Its columns are the ``log_likelihood``, its Monte Carlo ``std_error``, ``ess`` and ``khat``. The arguments are
        those of :func:`pyro_vae.log_likelihood`. On what it is conditional is said in :mod:`pyro_vae.cells.likelihood`.
        """
        self._check(vae)
        found = log_likelihood(vae.model, vae.guide, self.data, num_particles, **options)
        names = ("log_likelihood", "std_error", "ess", "khat")
        columns = {name: values.cpu().numpy() for name, values in zip(names, found, strict=True)}
        return frame("log_likelihood", columns, self.adata.obs_names)

    def _check(self, vae: CellVAE) -> None:
        self.design.check(vae.layout, vae.design)
        check_as_read(self.adata, self.obs_names)

    def _rows(self, rows: slice | Tensor, columns: slice = slice(None)) -> Tensor:
        found = self.matrix[rows.numpy() if isinstance(rows, Tensor) else rows, columns]
        return torch.from_numpy(found.toarray() if is_sparse(found) else found)
