r"""What programs of single cells are given of a cell: its counts, and what is known of it beside them.

The known part stands behind the counts, so that one tensor holds a cell,

.. math:: \bigl(\underbrace{x_1, \dots, x_G}_{\text{counts}},\; \underbrace{l, c_1, \dots, c_C, r_1, \dots, r_R
          }_{\text{covariates}}\bigr) .

l is the library size, c are the codes of categorical covariates, of which the first is the batch, and r are continuous
covariates. A network is given codes as indicators of their categories,

.. math:: \phi(c, r) = \bigl(\mathbb{1}[c_1 = 0], \mathbb{1}[c_1 = 1], \dots, r_1, \dots, r_R\bigr) .
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.nn import functional

__all__ = ["Layout"]


class Layout(NamedTuple):
    """The places of counts, library size, codes and continuous covariates in the row of a cell.

    Parameters
    ----------
    num_genes
        G.
    categories
        How many categories each categorical covariate has; the first is the batch.
    num_continuous
        R.

    Examples
    --------
    >>> layout = Layout(3, categories=(2,), num_continuous=1)
    >>> x, covariates = layout.unpack(torch.tensor([[0.0, 4.0, 2.0, 6.0, 1.0, 0.5]]))
    >>> x, covariates, layout.features(covariates)
    (tensor([[0., 4., 2.]]), tensor([[6.0000, 1.0000, 0.5000]]), tensor([[0.0000, 1.0000, 0.5000]]))
    """

    num_genes: int
    categories: tuple[int, ...] = ()
    num_continuous: int = 0

    @property
    def num_covariates(self) -> int:
        """The number of covariates, the library size among them."""
        return 1 + len(self.categories) + self.num_continuous

    @property
    def num_features(self) -> int:
        """The length of φ."""
        return sum(self.categories) + self.num_continuous

    def describe(self) -> str:
        """Return what the covariates of a cell are, for messages."""
        sizes = f", {len(self.categories)} codes below {self.categories}" if self.categories else ""
        return f"the library size{sizes}" + f", {self.num_continuous} continuous ones" * (self.num_continuous > 0)

    def unpack(self, x: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return counts ``(B, G)`` and covariates ``(B, 1 + C + R)``, given apart or packed in one tensor.

        Counts alone are enough where the library size, their sum, is the only covariate.

        Raises
        ------
        ValueError
            For other shapes, a library size that is not positive, and a code without a category.
        """
        num_genes, width = self.num_genes, self.num_genes + self.num_covariates
        if covariates is None and tuple(x.shape[1:]) == (width,):
            x, covariates = x[:, :num_genes], x[:, num_genes:]
        elif covariates is None and tuple(x.shape[1:]) == (num_genes,) and self.num_covariates == 1:
            covariates = x.double().sum(-1, keepdim=True).to(x.dtype)
        expected = (len(x), self.num_covariates)
        if tuple(x.shape[1:]) != (num_genes,) or covariates is None or tuple(covariates.shape) != expected:
            given = "" if covariates is None else f" and covariates of shape {tuple(covariates.shape)}"
            raise ValueError(
                f"x: found the shape {tuple(x.shape)}{given}, expected (B, {width}): {num_genes} counts, then "
                f"{self.describe()}, as pyro_vae.Cells has them"
            )
        self.check(covariates)
        return x, covariates

    def check(self, covariates: Tensor) -> None:
        """Raise ``ValueError`` for covariates that no cell has, unless the run is traced without values."""
        if torch.finfo(covariates.dtype).bits < 32:
            raise ValueError(f"x: found {covariates.dtype}, which rounds counts, expected float32 or float64")
        if detect_fake_mode() is not None:
            return
        library = covariates[..., 0]
        wrong = ~(library > 0)
        if wrong.any():
            row = int(wrong.reshape(-1).nonzero()[0])
            raise ValueError(
                f"x[{row}]: found the library size {library.reshape(-1)[row]:g}, expected a positive number; a cell "
                "without a count tells nothing, leave it out"
            )
        for place, number in enumerate(self.categories):
            code = covariates[..., 1 + place]
            if not ((code >= 0) & (code < number) & (code == code.round())).all():
                raise ValueError(
                    f"x: found codes of covariate {place} from {code.min():g} to {code.max():g}, expected integers "
                    f"from 0 to {number - 1}"
                )

    def features(self, covariates: Tensor) -> Tensor:
        """Return φ ``(*batch, num_features)`` of covariates ``(*batch, 1 + C + R)``."""
        codes = covariates[..., 1 : 1 + len(self.categories)].long().unbind(-1)
        ones = [functional.one_hot(code, number) for code, number in zip(codes, self.categories, strict=True)]
        return torch.cat([*(each.to(covariates) for each in ones), covariates[..., 1 + len(self.categories) :]], -1)

    def batch(self, covariates: Tensor) -> Tensor:
        """Return the codes of the batch ``(*batch,)``."""
        return covariates[..., 1].long()

    def in_batch(self, covariates: Tensor, code: int) -> Tensor:
        """Return covariates of the same cells, had they been in another batch."""
        changed = covariates.clone()
        changed[..., 1] = code
        return changed
