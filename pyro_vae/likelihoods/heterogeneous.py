r"""A likelihood of tables whose columns are of several kinds, with one latent vector.

A patient's record may hold a temperature, a yes or no, a blood group and a number of visits. Given z the columns are
independent,

.. math:: \log p(x|z) = \sum_j \log p_j\bigl(x_j | f_j(z)\bigr),

and one network gives the parameters of all. A column of large numbers, or with a narrow density, outweighs others in
the sum. So standardise real columns to mean 0 and standard deviation 1 first.

Nazabal, Olmos, Ghahramani and Valera, *Handling Incomplete Heterogeneous Data using VAEs*, 2020 (HI-VAE, 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.output import Likelihood

__all__ = ["Columns", "Heterogeneous"]


class Heterogeneous(Likelihood):
    r"""Groups of columns, each with its own likelihood.

    .. math:: p(x|z) = \prod_g p_g\bigl(x_g | f_g(z)\bigr)

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to the parameters of all parts in order, ``(*batch,
        num_outputs)``: ``sum(prod(part.output_shape) for part in parts)`` numbers.
    parts
        Likelihoods of this package with ``network=None`` and the data shape ``(n,)``; each takes the next n columns.

    Raises
    ------
    ValueError
        If there are no parts, a part has a network or another data shape, or the network gives another shape.
    TypeError
        If a part is not a likelihood.

    References
    ----------
    Nazabal et al., *Handling Incomplete Heterogeneous Data using VAEs*, 2020.

    Examples
    --------
    >>> from pyro_vae.likelihoods import Bernoulli, Gaussian, Nominal, Poisson
    >>> from pyro_vae.nn.mlp import MLP
    >>> parts = [Gaussian(None, (2,), scale="shared"), Bernoulli(None, (1,)), Nominal(None, (1,), 4)]
    >>> parts += [Poisson(None, (1,))]
    >>> p = Heterogeneous(MLP(3, (8,)), parts)(torch.zeros(1, 3))
    >>> p.log_prob(torch.tensor([[0.5, -1.0, 1.0, 3.0, 12.0]])).shape
    torch.Size([1])
    """

    def __init__(self, network: nn.Module | None, parts: Sequence[Likelihood]) -> None:
        if not parts:
            raise ValueError("parts: found none, expected one likelihood or more")
        for index, part in enumerate(parts):
            if not isinstance(part, Likelihood):
                raise TypeError(f"parts[{index}]: found {type(part).__name__}, expected a likelihood")
            if isinstance(part, Heterogeneous) or len(part.data_shape) != 1:
                found = f"{type(part).__name__} of data {part.data_shape}"
                raise ValueError(f"parts[{index}]: found {found}, expected a likelihood of columns, (n,)")
            if part.network is not None:
                raise ValueError(f"parts[{index}]: found a network of its own, expected None: one is split among them")
        super().__init__(network, (sum(part.data_shape[0] for part in parts),))
        self.parts = nn.ModuleList(parts)

    @property
    def num_outputs(self) -> int:
        return sum(prod(part.output_shape) for part in self._likelihoods())

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_outputs,)

    def from_output(self, output: Tensor) -> dist.TorchDistribution:
        parts = self._likelihoods()
        pieces = output.split([prod(part.output_shape) for part in parts], -1)
        groups = (part.from_output(x.unflatten(-1, part.output_shape)) for part, x in zip(parts, pieces, strict=True))
        return Columns(list(groups))

    def _likelihoods(self) -> list[Likelihood]:
        return [cast(Likelihood, part) for part in self.parts]


class Columns(dist.TorchDistribution):
    """Independent groups of columns side by side.

    Parameters
    ----------
    groups
        Distributions of independent columns, ``base.to_event(1)``, with one batch shape.

    Examples
    --------
    >>> p = Columns([dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Poisson(torch.ones(1)).to_event(1)])
    >>> p.mean, p.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log 2 pi - 1
    (tensor([0., 0., 1.]), tensor(-2.8379))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, groups: Sequence[Any], validate_args: bool | None = None) -> None:
        self.groups = list(groups)
        self.lengths = [group.event_shape[0] for group in self.groups]
        batch_shape = torch.broadcast_shapes(*(group.batch_shape for group in self.groups))
        super().__init__(batch_shape, torch.Size((sum(self.lengths),)), validate_args=validate_args)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        entries = [group.base_dist.support for group in self.groups]
        return constraints.independent(constraints.cat(entries, -1, self.lengths), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        new = self._get_checked_instance(Columns, _instance)
        new.groups, new.lengths = [group.expand(batch_shape) for group in self.groups], self.lengths
        super(Columns, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def group_of(self, column: int) -> Any:
        """Return the distribution that a column belongs to."""
        return next(group for group, end in zip(self.groups, accumulate(self.lengths), strict=True) if column < end)

    def masked(self, mask: Tensor) -> Columns:
        """Return the distribution without the entries where ``mask``, ``(*batch, num_columns)``, is false."""
        pieces = zip(self.groups, mask.split(self.lengths, -1), strict=True)
        return Columns([group.base_dist.mask(piece).to_event(1) for group, piece in pieces])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        pieces = zip(self.groups, value.split(self.lengths, -1), strict=True)
        return torch.stack(torch.broadcast_tensors(*(group.log_prob(piece) for group, piece in pieces))).sum(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.cat([group.sample(shape) for group in self.groups], -1)

    @property
    def mean(self) -> Tensor:
        return torch.cat([group.mean for group in self.groups], -1)
