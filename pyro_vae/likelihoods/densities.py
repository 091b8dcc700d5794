r"""Distributions of counts, and Student's t, whose log-probability is accurate in float32 for large numbers.

The log-probability of a count is a small difference of large terms,

.. math:: \log \frac{\mu^x e^{-\mu}}{x!} = x \log \mu - \mu - \log \Gamma(x + 1) .

At a rate of a million it is about -8, from terms of 13 million. Float32 has 7 digits and loses them all; float64 has
16. So the formulas here are evaluated in float64, and the result is returned in the type of the parameters. Terms that
depend on the data alone are evaluated once for all particles.

These are Pyro's distributions with another ``log_prob``. They keep the parent's ``__init__``, without which torch's
``expand`` does not work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["Binomial", "NegativeBinomial", "Poisson", "StudentT", "ZeroInflatedDistribution"]


class Poisson(dist.Poisson):
    r"""Pyro's Poisson distribution, accurate in float32 at any rate.

    .. math:: \log p(x) = x \log \mu - \mu - \log \Gamma(x + 1)

    ``largest_mean`` is the largest rate that the likelihood can give; larger counts cannot be modelled.

    >>> Poisson(torch.tensor(9e5)).log_prob(torch.tensor(9e5))  # -log(2 pi μ) / 2
    tensor(-7.7740)
    """

    largest_mean = math.inf

    def expand(self, batch_shape: Any, _instance: Any = None) -> Poisson:
        new = super().expand(batch_shape, _instance)
        new.largest_mean = self.largest_mean
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        return _in_float64(self, value, _poisson, self.rate)


class NegativeBinomial(dist.NegativeBinomial):
    r"""Pyro's negative binomial distribution, accurate in float32 at any mean.

    .. math:: \log p(x) = \log \Gamma(x + \theta) - \log \Gamma(\theta) - \log \Gamma(x + 1)
              + x\, l - (x + \theta) \log(1 + e^l), \qquad l = \log \frac{\mu}{\theta}

    ``largest_mean`` is the largest μ that the likelihood can give; larger counts cannot be modelled.

    >>> p = NegativeBinomial(torch.tensor(1.0), logits=torch.tensor(5e6).log())  # geometric: log θ - log μ - x / μ
    >>> p.log_prob(torch.tensor(5e6))
    tensor(-16.4249)
    """

    largest_mean = math.inf

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomial:
        new = super().expand(batch_shape, _instance)
        new.largest_mean = self.largest_mean
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        return _in_float64(self, value, _negative_binomial, self.total_count, self.logits)


class Binomial(dist.Binomial):
    r"""Pyro's binomial distribution by its logits, accurate in float32 at any number of trials.

    .. math:: \log p(k) = \log \binom{n}{k} + k \log y + (n - k) \log (1 - y), \qquad y = \mathrm{sigmoid}(l)

    >>> Binomial(10_000_000, logits=torch.tensor(0.0)).log_prob(torch.tensor(5e6))  # -log(pi n / 2) / 2
    tensor(-8.2848)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return _in_float64(self, value, _binomial, self.total_count, self.logits)


class ZeroInflatedDistribution(dist.ZeroInflatedDistribution):
    r"""Pyro's zero-inflated distribution, accurate at any logit g of π.

    .. math:: \log p_0(0) = \log\bigl(\pi + (1 - \pi)\, p(0)\bigr), \qquad
              \log p_0(x) = \log(1 - \pi) + \log p(x), \qquad \pi = \mathrm{sigmoid}(g)

    >>> p = ZeroInflatedDistribution(Poisson(torch.tensor(1e-6)), gate_logits=torch.tensor(15.0))
    >>> p.log_prob(torch.tensor(0.0))  # - (1 - π) μ
    tensor(-3.0590e-13)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return _in_float64(self, value, _zero_inflated, self.base_dist.log_prob(value), self.gate_logits)


class StudentT(dist.StudentT):
    r"""Pyro's Student's t distribution, accurate for many degrees of freedom and for values far from the location.

    .. math:: \log p(x) = \log \Gamma\Bigl(\frac{\nu + 1}2\Bigr) - \log \Gamma\Bigl(\frac\nu2\Bigr)
              - \tfrac12 \log(\pi\nu) - \log \sigma
              - \frac{\nu + 1}2 \log\Bigl(1 + \frac{y^2}\nu\Bigr), \qquad y = \frac{x - \mu}\sigma

    >>> StudentT(torch.tensor(1e6), 0.0, 1.0).log_prob(torch.tensor(0.0))  # -log(2 pi) / 2
    tensor(-0.9189)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return _in_float64(self, value, _student, self.df, self.loc, self.scale)


def _poisson(x: Tensor, rate: Tensor) -> Tensor:
    return torch.xlogy(x, rate) - rate - torch.lgamma(x + 1)


def _negative_binomial(x: Tensor, theta: Tensor, logits: Tensor) -> Tensor:
    gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return gammas + x * logits + (x + theta) * logsigmoid(-logits)


def _binomial(k: Tensor, n: Tensor, logits: Tensor) -> Tensor:
    choices = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return choices + k * logsigmoid(logits) + (n - k) * logsigmoid(-logits)


def _zero_inflated(x: Tensor, log_p: Tensor, gate: Tensor) -> Tensor:
    counted = logsigmoid(-gate) + log_p
    return torch.where(x == 0, torch.logaddexp(logsigmoid(gate), counted), counted)


def _student(x: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    constant = torch.lgamma(0.5 * (df + 1)) - torch.lgamma(0.5 * df) - 0.5 * torch.log(math.pi * df)
    return constant - scale.log() - 0.5 * (df + 1) * torch.log1p(((x - loc) / scale).square() / df)


def _in_float64(p: Any, value: Tensor, formula: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Evaluate ``formula(value, *parameters)`` in float64, and return it in the shape and type of Pyro's result."""
    if p._validate_args:
        p._validate_sample(value)
    log_p = formula(value.double(), *(_unexpanded(parameter).double() for parameter in parameters))
    dtype = torch.promote_types(parameters[-1].dtype, value.dtype)
    return log_p.to(dtype).expand(torch.broadcast_shapes(p.batch_shape, value.shape))


def _unexpanded(tensor: Tensor) -> Tensor:
    """Return a broadcast parameter without its copies, so that terms of it alone are evaluated once."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor
