"""The base class of likelihoods, which turns a network's output into a distribution of the data.

A network gives one number per entry of the data, ``(*batch, *data_shape)``, or several, stacked as ``(*batch,
num_outputs, *data_shape)``. An output of another shape is refused, because it would silently broadcast over the data.
"""

from __future__ import annotations

from typing import Annotated

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.nn.layers import one_tensor
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import DataShape
from pyro_vae.runtime.kinds import Integers

__all__ = ["Likelihood", "OneOrMore", "TwoOrMore"]

OneOrMore = Annotated[int, Integers("an integer, 1 or more", 1)]
TwoOrMore = Annotated[int, Integers("an integer, 2 or more", 2)]


class Likelihood(Rebuildable):
    r"""The base class of likelihoods, whose entries are independent given z.

    .. math:: p(x|z) = \prod_i p(x_i | f_i(z))

    A subclass defines :attr:`num_outputs` and :meth:`elementwise`, which returns the distribution of single entries. If
    entries are not independent, it overrides :meth:`from_output` instead.

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to ``(*batch, *output_shape)``. It is ``None`` for a part of
        :class:`~pyro_vae.likelihoods.heterogeneous.Heterogeneous`, which has one network for all parts.
    data_shape
        The shape of one datum.

    Raises
    ------
    ValueError
        When called, if there is no network or it gives another shape.
    """

    def __init__(self, network: nn.Module | None, data_shape: DataShape) -> None:
        super().__init__()
        self.network = network
        self.data_shape = tuple(map(int, data_shape))

    @property
    def num_outputs(self) -> int:
        """The number of network outputs per entry of the data."""
        return 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the network's output for one z."""
        return self.data_shape if self.num_outputs == 1 else (self.num_outputs, *self.data_shape)

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        """Return the distribution of single entries, from ``num_outputs`` tensors ``(*batch, *data_shape)``."""
        raise NotImplementedError(f"{type(self).__name__}: found no method elementwise, expected it or from_output")

    def from_output(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) from an output of the network, ``(*batch, *output_shape)``."""
        num_dims = len(self.data_shape)
        parameters = (output,) if self.num_outputs == 1 else output.unbind(output.dim() - num_dims - 1)
        return self.elementwise(*parameters).to_event(num_dims)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        name = type(self).__name__
        if self.network is None:
            raise ValueError(f"{name}: found no network, expected one, or a place among the parts of a Heterogeneous")
        output = one_tensor(self, self.network(z))  # (*batch, *output_shape)
        expected = (*z.shape[:-1], *self.output_shape)
        if tuple(output.shape) != expected:
            raise ValueError(
                f"{name}: found a network output of shape {tuple(output.shape)} for z of shape {tuple(z.shape)}, "
                f"expected {expected}"
            )
        return self.from_output(output)
