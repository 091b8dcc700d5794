"""Pairs of one latent in every support, with log p(x) in closed form, and guides some way off the posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


class Conjugate(NamedTuple):
    """A pair, its data, and their log p(x)."""

    model: Callable[[Tensor], None]
    guide: Callable[[Tensor], None]
    x: Tensor
    log_p: Tensor


def _numbers(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _pair(prior: Any, likelihood: Callable[[Tensor], Any], guide: Callable[[Tensor], Any], seen: Any = None) -> Any:
    """Programs of z ~ prior, x ~ likelihood(z) and z ~ guide(x)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", likelihood(z), obs=x if seen is None else seen(x, z))

    def guided(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", guide(x))

    return model, guided


def gamma() -> Conjugate:
    """z ~ Gamma(2, 3), x ~ Exponential(z): p(x) = 2 3² / (3 + x)³; the posterior is Gamma(3, 3 + x)."""
    x = _numbers(0.1, 1.0, 4.0)
    pair = _pair(dist.Gamma(_numbers(2.0)[0], 3.0), dist.Exponential, lambda x: dist.Gamma(1.0 + 0 * x, 2.0 + x))
    return Conjugate(*pair, x, torch.log(18.0 / (3.0 + x) ** 3))


def beta() -> Conjugate:
    """z ~ Beta(2, 1.5), x ~ Binomial(5, z), which is beta-binomial."""
    x = _numbers(0.0, 2.0, 5.0)
    prior = dist.Beta(_numbers(2.0)[0], 1.5)
    guide = lambda x: dist.Beta(1.0 + 0.5 * x, 3.0 - 0.4 * x)  # noqa: E731
    log_p = dist.BetaBinomial(_numbers(2.0)[0], 1.5, 5).log_prob(x)
    return Conjugate(*_pair(prior, lambda z: dist.Binomial(5, z), guide), x, log_p)


def dirichlet() -> Conjugate:
    """z ~ Dirichlet(α), x ~ Multinomial(4, z)."""
    x, alpha = _numbers([0.0, 1.0, 3.0], [4.0, 0.0, 0.0]), _numbers(1.0, 2.0, 1.5)
    pair = _pair(dist.Dirichlet(alpha), lambda z: dist.Multinomial(4, z), lambda x: dist.Dirichlet(1.5 + 0.5 * x))
    return Conjugate(*pair, x, dist.DirichletMultinomial(alpha, 4).log_prob(x))


def bounded() -> Conjugate:
    """z ~ Exponential(2), x - z ~ Exponential(1): p(x) = 2 exp(-x) (1 - exp(-x)); z lies between 0 and x."""
    x = _numbers(0.2, 1.5, 4.0)
    pair = _pair(
        dist.Exponential(_numbers(2.0)[0]),
        lambda z: dist.Exponential(torch.ones_like(z)),
        lambda x: dist.Uniform(torch.zeros_like(x), x),
        seen=lambda x, z: x - z,
    )
    return Conjugate(*pair, x, torch.log(2 * torch.exp(-x) * (1 - torch.exp(-x))))


def log_normal() -> Conjugate:
    """log z ~ N(0, 1), log x ~ N(log z, 0.5²)."""
    x = _numbers(0.2, 1.0, 5.0)
    pair = _pair(
        dist.LogNormal(_numbers(0.0)[0], 1.0),
        lambda z: dist.LogNormal(z.log(), 0.5),
        lambda x: dist.LogNormal(0.5 * x.log(), 0.7),
    )
    return Conjugate(*pair, x, dist.LogNormal(_numbers(0.0)[0], 1.25**0.5).log_prob(x))


def mixture() -> Conjugate:
    """z from a mixture of Gaussians, under which x is one too."""
    x, means = _numbers(-3.0, 0.5, 2.0), _numbers(-2.0, 1.0)
    weights = dist.Categorical(probs=_numbers(0.3, 0.7))
    pair = _pair(
        dist.MixtureSameFamily(weights, dist.Normal(means, 0.5)),
        lambda z: dist.Normal(z, 1.0),
        lambda x: dist.MixtureSameFamily(weights, dist.Normal(0.5 * (means + x[:, None]), 1.0)),
    )
    return Conjugate(*pair, x, dist.MixtureSameFamily(weights, dist.Normal(means, 1.25**0.5)).log_prob(x))


CONJUGATE: dict[str, Callable[[], Conjugate]] = {
    "Gamma": gamma,
    "Beta": beta,
    "Dirichlet": dirichlet,
    "Uniform between bounds of x": bounded,
    "LogNormal": log_normal,
    "mixture": mixture,
}
