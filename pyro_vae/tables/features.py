r"""What an encoder is given of a table's columns.

Codes are names and no numbers, so a nominal column becomes one indicator a category. Counts become logarithms, lest the
large ones saturate the network:

.. math:: \phi(x_j) = \begin{cases} x_j & \text{real, binary} \\ \log(1 + x_j) & \text{count} \\
          \bigl(\mathbb{1}[x_j = 0], \dots, \mathbb{1}[x_j = C_j - 1]\bigr) & \text{nominal} \end{cases}
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Annotated

import torch
from torch import Tensor, nn

from pyro_vae.nn.layers import check_trailing
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.kinds import Sizes

__all__ = ["ColumnFeatures"]


class ColumnFeatures(Rebuildable):
    """A network on the features of columns.

    Parameters
    ----------
    network
        From ``(*batch, num_features)``.
    num_categories
        For each column the number of categories if it is nominal, else 0.
    counts
        The places of the columns of counts.

    Examples
    --------
    >>> features = ColumnFeatures(nn.Identity(), num_categories=(0, 3, 0), counts=(2,))
    >>> features(torch.tensor([[0.5, 2.0, 0.0]])), features.num_features
    (tensor([[0.5000, 0.0000, 0.0000, 1.0000, 0.0000]]), 5)
    """

    source: Tensor
    code: Tensor
    is_count: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_categories: Annotated[Sequence[int], Sizes("integers, 0 or more", least=0)],
        counts: Annotated[Sequence[int], Sizes("integers, 0 or more", least=0)] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.num_columns = len(num_categories)
        codes = [range(number) if number else (-1,) for number in num_categories]
        source = [column for column, each in enumerate(codes) for _ in each]
        for name, value in {
            "source": torch.tensor(source),  # (num_features,), the column of each feature
            "code": torch.tensor(list(chain(*codes))),  # the category that it indicates, -1 for none
            "is_count": torch.tensor([column in counts for column in source]),
        }.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def num_features(self) -> int:
        """The number of features of all columns."""
        return len(self.source)

    def forward(self, x: Tensor) -> Tensor:
        check_trailing(self, x, (self.num_columns,))
        values = x[..., self.source]  # (*batch, num_features)
        numbers = torch.where(self.is_count, values.clamp(min=0).log1p(), values)
        return self.network(torch.where(self.code >= 0, (values == self.code).to(x), numbers))
