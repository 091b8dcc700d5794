r"""Likelihoods of whole numbers with an upper bound: the grey levels of pixels, and the codes of categories.

Cameras and scanners store an image in levels, most often 256. As in :func:`pyro_vae.data.load`, level k of L stands for
a number in [0, 1]:

.. math:: x = \frac{k}{L - 1}, \quad k = 0, \dots, L - 1, \qquad p(x|z) = P(k|z), \qquad \sum_k P(k|z) = 1 .

p is the probability of the level and not a density of x, so its logarithm is never positive. Numbers between the levels
are refused. The log-probability in nats, divided by log 2 and the number of entries, gives bits per dimension: what a
perfect lossless code would take to store the image.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.densities import Binomial as BinomialDistribution
from pyro_vae.likelihoods.output import Likelihood, OneOrMore, TwoOrMore
from pyro_vae.runtime.arguments import DataShape

__all__ = ["Binomial", "Categorical", "GreyLevels", "Levels", "Nominal"]


class Levels(constraints.Constraint):
    """The numbers 0, 1/m, 2/m, ... 1 with m = ``num_levels - 1``, up to the rounding of float32.

    >>> Levels(256).check(torch.tensor([0.0, 51 / 255, 0.5, 1.0, 2.0]))
    tensor([ True,  True, False,  True, False])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        self.top = num_levels - 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        level = value.double() * self.top
        nearest = level.round()
        close = (level - nearest).abs() <= 4 * torch.finfo(torch.float32).eps * self.top
        return close & (nearest >= 0) & (nearest <= self.top)

    def __repr__(self) -> str:
        return f"multiples of 1/{self.top} from 0 to 1"


class GreyLevels(dist.TorchDistribution):
    r"""Whole numbers k as levels in [0, 1], x = k / (L - 1); a probability needs no Jacobian.

    Parameters
    ----------
    levels
        A distribution of k, a whole number from 0 to L - 1.
    num_levels
        L, 2 or more.

    Examples
    --------
    >>> p = GreyLevels(dist.Binomial(16, torch.tensor(0.5)), 17)
    >>> p.mean, round(p.log_prob(torch.tensor(1.0)).exp().item() * 2**16, 3)
    (tensor(0.5000), 1.0)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, levels: dist.TorchDistribution, num_levels: int, validate_args: bool | None = None) -> None:
        self.levels, self.num_levels = levels, num_levels
        super().__init__(levels.batch_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        return Levels(self.num_levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GreyLevels:
        new = self._get_checked_instance(GreyLevels, _instance)
        new.levels, new.num_levels = self.levels.expand(batch_shape), self.num_levels
        super(GreyLevels, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        level = value.double() * (self.num_levels - 1)  # float32 would miss levels beyond a million
        return self.levels.log_prob(level.round().to(value.dtype))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.levels.sample(torch.Size(sample_shape)) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        return self.levels.mean / (self.num_levels - 1)


class Codes(dist.Categorical):
    """Pyro's categorical distribution with draws in floating point and the most probable code as its mean.

    Give it the log-softmax of the logits: Pyro's own normalisation loses the digits of large ones.
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        return self.mode.to(self.logits.dtype)


class OrderedCodes(Codes):
    """The same for codes that are numbers and have a mean."""

    @property
    def mean(self) -> Tensor:
        numbers = torch.arange(self.logits.shape[-1], dtype=self.logits.dtype, device=self.logits.device)
        return (self.probs * numbers).sum(-1)


class Categorical(Likelihood):
    r"""Independent grey levels with any distribution, whose order is not used.

    .. math:: P(k|z) = \prod_i \mathrm{softmax}\bigl(f_i(z)\bigr)_{k_i}, \qquad x_i = \frac{k_i}{L - 1}

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to logits, ``(*batch, num_levels, *data_shape)``.
    data_shape
        The shape of one datum; its pixels are multiples of 1/(L - 1) from 0 to 1.
    num_levels
        L, 2 or more: 256 for bytes.

    Raises
    ------
    ValueError
        If ``num_levels`` is not an integer above 1, or the network gives another shape.

    References
    ----------
    Van den Oord, Kalchbrenner and Kavukcuoglu, *Pixel Recurrent Neural Networks*, 2016, section 3.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = Categorical(MLP(2, (4, 3)), (3,), num_levels=4)(torch.zeros(1, 2))  # levels 0, 1/3, 2/3, 1
    >>> round(p.log_prob(torch.tensor([0.0, 1 / 3, 1.0])).exp().item(), 4)  # 1/4 each
    0.0156
    """

    def __init__(self, network: nn.Module | None, data_shape: DataShape, num_levels: TwoOrMore = 256) -> None:
        super().__init__(network, data_shape)
        self.num_levels = num_levels

    @property
    def num_outputs(self) -> int:
        return self.num_levels

    def from_output(self, output: Tensor) -> dist.TorchDistribution:
        num_dims = len(self.data_shape)
        logits = output.movedim(-1 - num_dims, -1)  # (*batch, *data_shape, L)
        return GreyLevels(OrderedCodes(logits=logits.log_softmax(-1)), self.num_levels).to_event(num_dims)


class Binomial(Likelihood):
    r"""Independent levels that count the successes of n trials, with one network output per entry.

    .. math:: P(k|z) = \prod_i \binom{n}{k_i} y_i^{k_i} (1 - y_i)^{n - k_i}, \qquad x_i = \frac{k_i}{n},
              \quad y = \mathrm{sigmoid}(f(z))

    Divide counts by n first. An entry of scikit-learn's digits counts the dots in a square of 16.

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to logits, ``(*batch, *data_shape)``.
    data_shape
        The shape of one datum; its entries are multiples of 1/n from 0 to 1.
    total_count
        n, 1 or more.

    Raises
    ------
    ValueError
        If ``total_count`` is not a positive integer, or the network gives another shape.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = Binomial(MLP(2, (3,)), (3,), total_count=16)(torch.zeros(1, 2))
    >>> p.mean, p.base_dist.support
    (tensor([[0.5000, 0.5000, 0.5000]], grad_fn=<DivBackward0>), multiples of 1/16 from 0 to 1)
    """

    def __init__(self, network: nn.Module | None, data_shape: DataShape, total_count: OneOrMore) -> None:
        super().__init__(network, data_shape)
        self.total_count = total_count

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        (logits,) = parameters
        total_count = logits.new_full((), self.total_count)
        return GreyLevels(BinomialDistribution(total_count, logits=logits), self.total_count + 1)


class Nominal(Likelihood):
    r"""Independent categories without an order, coded 0, 1, ... C - 1, such as colours or countries.

    .. math:: P(x|z) = \prod_i \mathrm{softmax}\bigl(f_i(z)\bigr)_{x_i}

    Codes have no mean, so the distribution's ``mean``, which reconstructions show, is the most probable code.

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to logits, ``(*batch, num_categories, *data_shape)``.
    data_shape
        The shape of one datum; its entries are whole numbers from 0 to C - 1.
    num_categories
        C, 2 or more.

    Raises
    ------
    ValueError
        If ``num_categories`` is not an integer above 1, or the network gives another shape.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = Nominal(MLP(2, (4, 3)), (3,), num_categories=4)(torch.zeros(1, 2))
    >>> round(p.log_prob(torch.tensor([0.0, 1.0, 3.0])).exp().item(), 4)  # 1/4 each
    0.0156
    """

    def __init__(self, network: nn.Module | None, data_shape: DataShape, num_categories: TwoOrMore) -> None:
        super().__init__(network, data_shape)
        self.num_categories = num_categories

    @property
    def num_outputs(self) -> int:
        return self.num_categories

    def from_output(self, output: Tensor) -> dist.TorchDistribution:
        num_dims = len(self.data_shape)
        logits = output.movedim(-1 - num_dims, -1)  # (*batch, *data_shape, C)
        return Codes(logits=logits.log_softmax(-1)).to_event(num_dims)
