r"""What the guide sees of a cell: the logarithms of its counts and of its library size, and its covariates.

.. math:: f\bigl(\log(1 + x),\ \log (l / l_0),\ \phi(s)\bigr)

With l and s the network need not find out from the counts what is known. φ is in :mod:`pyro_vae.cells.layout`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_vae.cells.layout import Layout
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import NonNegativeInteger, PositiveInteger, PositiveNumber, Widths

__all__ = ["CellEncoder"]


class CellEncoder(Rebuildable):
    r"""A network on the counts, the library size and the covariates of cells.

    Parameters
    ----------
    network
        From ``(*batch, num_genes + 1 + num_features)``.
    num_genes, categories, num_continuous
        What a cell has, see :class:`pyro_vae.cells.layout.Layout`.
    typical_library
        The library size l₀.

    Examples
    --------
    >>> encoder = CellEncoder(nn.Identity(), num_genes=2, categories=(2,), typical_library=3.0)
    >>> encoder(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 1.0]]))
    tensor([[1.3863, 0.0000, 0.0000, 0.0000, 1.0000]])
    """

    def __init__(
        self,
        network: nn.Module,
        num_genes: PositiveInteger,
        categories: Widths = (),
        num_continuous: NonNegativeInteger = 0,
        typical_library: PositiveNumber = 1e4,
    ) -> None:
        super().__init__()
        self.network = network
        self.layout = Layout(num_genes, tuple(map(int, categories)), num_continuous)
        self.log_typical = math.log(typical_library)

    def forward(self, x: Tensor, covariates: Tensor) -> Tensor:
        log_library = covariates[..., :1].log() - self.log_typical
        return self.network(torch.cat([x.clamp(min=0).log1p(), log_library, self.layout.features(covariates)], -1))
