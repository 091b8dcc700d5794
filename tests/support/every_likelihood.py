"""Every likelihood of the package, on the smallest data that show what it does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor, nn

from pyro_vae import MLP, VAE, DiagonalNormal, StandardNormal
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    Heterogeneous,
    Laplace,
    Likelihood,
    NegativeBinomial,
    Nominal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

LATENT_DIM = 2
COLOUR = (3, 2, 2)


def _table(network: nn.Module | None) -> Heterogeneous:
    parts = [
        Gaussian(None, (2,), scale="decoder"),
        Bernoulli(None, (1,)),
        Nominal(None, (2,), 4),
        ZeroInflatedPoisson(None, (1,)),
        Binomial(None, (1,), 16),
    ]
    return Heterogeneous(network, parts)


# By name: a likelihood on a given network.
MAKERS: dict[str, Callable[[nn.Module | None], Likelihood]] = {
    "Bernoulli": lambda network: Bernoulli(network, (3,)),
    "ContinuousBernoulli": lambda network: ContinuousBernoulli(network, (3,)),
    "Gaussian": lambda network: Gaussian(network, (3,)),
    "Laplace": lambda network: Laplace(network, (3,)),
    "StudentT": lambda network: StudentT(network, (3,)),
    "Categorical": lambda network: Categorical(network, (2, 2), num_levels=4),
    "Binomial": lambda network: Binomial(network, (3,), total_count=16),
    "Nominal": lambda network: Nominal(network, (3,), num_categories=4),
    "DiscretizedLogistic": lambda network: DiscretizedLogistic(network, (3,)),
    "DiscretizedLogisticMixture": lambda network: DiscretizedLogisticMixture(network, (2, 2), num_components=2),
    "colour": lambda network: DiscretizedLogisticMixture(network, COLOUR, num_components=2, num_levels=16),
    "Poisson": lambda network: Poisson(network, (3,)),
    "NegativeBinomial": lambda network: NegativeBinomial(network, (3,), "decoder"),
    "ZeroInflatedPoisson": lambda network: ZeroInflatedPoisson(network, (3,)),
    "ZeroInflatedNegativeBinomial": lambda network: ZeroInflatedNegativeBinomial(network, (3,)),
    "Heterogeneous": _table,
}


def every_likelihood(name: str) -> Likelihood:
    """The likelihood on a small network."""
    return MAKERS[name](MLP(LATENT_DIM, MAKERS[name](None).output_shape, (5,)))


def vae_with(likelihood: Likelihood) -> VAE:
    """A VAE with that likelihood."""
    posterior = DiagonalNormal(MLP(likelihood.data_shape, (2, LATENT_DIM), (5,)))
    return VAE(prior=StandardNormal(LATENT_DIM), likelihood=likelihood, posterior=posterior)


def p_value(draws: Tensor, log_p: Tensor) -> float:
    """Of Pearson's test that draws, the indices ``(N,)`` of values, come from the probabilities of these ``(L,)``."""
    expected = log_p.detach().exp().double() * len(draws)
    counts = torch.bincount(draws, minlength=len(log_p)).double()
    common = expected >= 5
    counts, expected = (torch.cat([v[common], v[~common].sum()[None]]) for v in (counts, expected))
    expected = expected.clamp(min=1e-9 * len(draws))  # the rest may be empty
    return float(stats.chi2.sf(float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1))
