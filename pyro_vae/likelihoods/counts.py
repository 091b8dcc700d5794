r"""Likelihoods of counts: 0, 1, 2, ... without an upper bound.

The variance of a Poisson distribution is its mean. Counts of words or of molecules vary more. If the rate has a Gamma
distribution of mean μ and shape θ, the counts are negative binomial, with the variance

.. math:: \mathrm{Var}[x] = \mu + \frac{\mu^2}{\theta} .

θ is the *inverse dispersion*; for large θ the counts are Poisson. Where some counts are lost and read as zero, with
probability π, the distribution is zero-inflated:

.. math:: p_0(x) = \pi\, \mathbb{1}[x = 0] + (1 - \pi)\, p(x) .

The network's output becomes a rate by :func:`pyro_vae.nn.scales.bounded_scale`, an exponential that saturates. The rate
is in the middle of its bounds, on the log scale, where the output is 0, and never zero or infinite.
"""

from __future__ import annotations

from typing import Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.likelihoods.densities import NegativeBinomial as NegativeBinomialDistribution
from pyro_vae.likelihoods.densities import Poisson as PoissonDistribution
from pyro_vae.likelihoods.densities import ZeroInflatedDistribution
from pyro_vae.likelihoods.output import Likelihood
from pyro_vae.nn.scales import bounded_scale, check_bounds
from pyro_vae.runtime.arguments import DataShape, PositiveNumber

__all__ = [
    "InverseDispersion",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflated",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]

InverseDispersion = Literal["shared", "per_entry", "decoder"]


class Poisson(Likelihood):
    r"""Independent counts, each with its own rate.

    .. math:: p(x|z) = \prod_i e^{-\mu_i} \frac{\mu_i^{x_i}}{x_i!}, \qquad \log \mu \approx f(z)

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to the raw log-rates, ``(*batch, *data_shape)``.
    data_shape
        The shape of one datum; its entries are 0, 1, 2, ...
    low, high
        The bounds of μ, see :func:`pyro_vae.nn.scales.bounded_scale`. Set ``high`` to at least the largest count:
        :func:`~pyro_vae.fit` and :func:`~pyro_vae.log_likelihood` refuse counts above it.

    Raises
    ------
    ValueError
        If the network gives another shape, or unless ``0 < low < high``.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> Poisson(MLP(2, (3,)), (3,))(torch.zeros(1, 2)).mean
    tensor([[1., 1., 1.]], grad_fn=<ExpBackward0>)
    """

    def __init__(
        self, network: nn.Module | None, data_shape: DataShape, low: PositiveNumber = 1e-6, high: PositiveNumber = 1e6
    ) -> None:
        super().__init__(network, data_shape)
        check_bounds(low, high)
        self.low, self.high = low, high

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        (raw,) = parameters
        p = PoissonDistribution(bounded_scale(raw, self.low, self.high))
        p.largest_mean = float(self.high)
        return p


class NegativeBinomial(Likelihood):
    r"""Independent counts with mean μ and inverse dispersion θ, which vary more than Poisson counts.

    .. math:: p(x|z) = \prod_i \frac{\Gamma(x_i + \theta_i)}{\Gamma(\theta_i)\, x_i!}
              \Bigl(\frac{\theta_i}{\theta_i + \mu_i}\Bigr)^{\theta_i}
              \Bigl(\frac{\mu_i}{\theta_i + \mu_i}\Bigr)^{x_i}, \qquad \log \mu \approx f(z)

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to the raw log-means, ``(*batch, *data_shape)``. With
        ``inverse_dispersion="decoder"`` it gives these and the raw log θ, stacked as ``(*batch, 2, *data_shape)``.
    data_shape
        The shape of one datum; its entries are 0, 1, 2, ...
    inverse_dispersion
        The source of θ: ``"shared"``, one learned number; ``"per_entry"``, one for each entry, such as a gene; or
        ``"decoder"``, a function of z. Learned numbers start at 1.
    low, high
        The bounds of μ, see :func:`pyro_vae.nn.scales.bounded_scale`. Set ``high`` to at least the largest count:
        :func:`~pyro_vae.fit` and :func:`~pyro_vae.log_likelihood` refuse counts above it. The bounds of θ are 0.001 and
        1000: the standard deviation of a count is at least 3 % of its mean.

    Raises
    ------
    ValueError
        For an unknown ``inverse_dispersion``, if the network gives another shape, or unless ``0 < low < high``.

    References
    ----------
    Lopez et al., *Deep generative modeling for single-cell transcriptomics*, 2018.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = NegativeBinomial(MLP(2, (3,)), (3,))(torch.zeros(1, 2))
    >>> p.mean, p.variance  # μ + μ² / θ
    (tensor([[1., 1., 1.]], grad_fn=<MulBackward0>), tensor([[2., 2., 2.]], grad_fn=<DivBackward0>))
    """

    def __init__(
        self,
        network: nn.Module | None,
        data_shape: DataShape,
        inverse_dispersion: InverseDispersion = "per_entry",
        low: PositiveNumber = 1e-6,
        high: PositiveNumber = 1e6,
    ) -> None:
        super().__init__(network, data_shape)
        check_bounds(low, high)
        if inverse_dispersion not in get_args(InverseDispersion):
            choices = ", ".join(map(repr, get_args(InverseDispersion)))
            raise ValueError(f"inverse_dispersion: found {inverse_dispersion!r}, expected one of {choices}")
        self.inverse_dispersion = inverse_dispersion
        self.low, self.high = low, high
        if inverse_dispersion != "decoder":
            start = torch.zeros(self.data_shape if inverse_dispersion == "per_entry" else ())
            self.raw_inverse_dispersion = nn.Parameter(start)

    @property
    def num_outputs(self) -> int:
        return 2 if self.inverse_dispersion == "decoder" else 1

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        if self.inverse_dispersion == "decoder":
            raw, raw_theta = parameters  # (*batch, *data_shape) each
        else:
            (raw,), raw_theta = parameters, self.raw_inverse_dispersion
        theta = bounded_scale(raw_theta, 1e-3, 1e3)
        log_mean = bounded_scale(raw, self.low, self.high).log()
        p = NegativeBinomialDistribution(theta, logits=log_mean - theta.log())
        p.largest_mean = float(self.high)
        return p


class ZeroInflated(Likelihood):
    """A mixin that adds zero inflation; inherit it before a likelihood of counts.

    The network gives one more number per entry, the logit of π, before the others.
    """

    @property
    def num_outputs(self) -> int:
        return super().num_outputs + 1

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        gate, *others = parameters
        return ZeroInflatedDistribution(super().elementwise(*others), gate_logits=gate)


class ZeroInflatedPoisson(ZeroInflated, Poisson):
    r"""Independent Poisson counts, some of which are lost and read as zero.

    .. math:: p(x|z) = \prod_i \pi_i\, \mathbb{1}[x_i = 0] + (1 - \pi_i)\, \mathrm{Poisson}(x_i; \mu_i)

    The network gives the logits of π and the raw log-rates, stacked as ``(*batch, 2, *data_shape)``. Otherwise the
    arguments and errors are those of :class:`Poisson`.

    References
    ----------
    Lambert, *Zero-inflated Poisson regression*, 1992.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> ZeroInflatedPoisson(MLP(2, (2, 3)), (3,))(torch.zeros(1, 2)).mean  # (1 - π) μ
    tensor([[0.5000, 0.5000, 0.5000]], grad_fn=<MulBackward0>)
    """


class ZeroInflatedNegativeBinomial(ZeroInflated, NegativeBinomial):
    r"""Independent negative binomial counts, some of which are lost and read as zero, such as molecules in a cell.

    .. math:: p(x|z) = \prod_i \pi_i\, \mathbb{1}[x_i = 0] + (1 - \pi_i)\, \mathrm{NB}(x_i; \mu_i, \theta_i)

    The network gives the logits of π, the raw log-means and, with ``inverse_dispersion="decoder"``, the raw log θ,
    stacked as ``(*batch, 2 or 3, *data_shape)``. Otherwise the arguments and errors are those of
    :class:`NegativeBinomial`.

    References
    ----------
    Lopez et al., *Deep generative modeling for single-cell transcriptomics*, 2018.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> ZeroInflatedNegativeBinomial(MLP(2, (2, 3)), (3,))(torch.zeros(1, 2)).mean  # (1 - π) μ
    tensor([[0.5000, 0.5000, 0.5000]], grad_fn=<MulBackward0>)
    """
