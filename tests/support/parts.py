"""Every part of the package on a few pixels: posteriors, priors, likelihoods with data of theirs, and networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_vae import (
    MLP,
    VAE,
    DiagonalNormal,
    Flow,
    FlowPosterior,
    FlowPrior,
    FullNormal,
    GaussianMixture,
    ImageDecoder,
    ImageEncoder,
    LearnedNormal,
    LowRankNormal,
    MixturePosterior,
    StandardNormal,
    VampPrior,
    likelihoods,
)

IMAGE = (4, 4)
LATENT_DIM = 2
NUM_DATA = 4

NETWORKS = ("mlp", "convolutional")


def encoder(network: str, out_shape: int | tuple[int, ...]) -> nn.Module:
    return MLP(IMAGE, out_shape, (5,)) if network == "mlp" else ImageEncoder(IMAGE, out_shape, (3,))


def decoder(network: str, out_shape: tuple[int, ...]) -> nn.Module:
    if network == "mlp":
        return MLP(LATENT_DIM, out_shape, (5,))
    return ImageDecoder(LATENT_DIM, IMAGE, (3,), num_outputs=1 if out_shape == IMAGE else out_shape[0])


def flow_posterior(name: str, network: str) -> FlowPosterior:
    return FlowPosterior(Flow(name, LATENT_DIM, 3, num_transforms=1, hidden_dims=(4,)), encoder(network, 3))


POSTERIORS: dict[str, Callable[[str], nn.Module]] = {
    "diagonal": lambda n: DiagonalNormal(encoder(n, (2, LATENT_DIM))),
    "full": lambda n: FullNormal(encoder(n, FullNormal.num_outputs(LATENT_DIM))),
    "low rank": lambda n: LowRankNormal(encoder(n, (3, LATENT_DIM)), rank=1),
    "mixture": lambda n: MixturePosterior(encoder(n, (2, 1 + 2 * LATENT_DIM)), LATENT_DIM),
}
for _name in ("autoregressive", "spline", "coupling", "planar", "householder", "sylvester"):
    POSTERIORS[_name] = lambda n, f=_name: flow_posterior(f, n)

PRIORS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "standard": lambda q: StandardNormal(LATENT_DIM),
    "learned": lambda q: LearnedNormal(LATENT_DIM),
    "mixture": lambda q: GaussianMixture(2, LATENT_DIM),
    "vamp": lambda q: VampPrior(2, q, IMAGE, "start" if isinstance(q, FlowPosterior) else "posterior"),
    "flow": lambda q: FlowPrior(Flow("autoregressive", LATENT_DIM, num_transforms=1, hidden_dims=(4,))),
}

_LIKELIHOODS: dict[str, Callable[[nn.Module | None], nn.Module]] = {
    "bernoulli": lambda f: likelihoods.Bernoulli(f, IMAGE),
    "continuous bernoulli": lambda f: likelihoods.ContinuousBernoulli(f, IMAGE),
    "gaussian": lambda f: likelihoods.Gaussian(f, IMAGE),
    "laplace": lambda f: likelihoods.Laplace(f, IMAGE, "shared"),
    "student t": lambda f: likelihoods.StudentT(f, IMAGE, "per_pixel"),
    "categorical": lambda f: likelihoods.Categorical(f, IMAGE, num_levels=4),
    "binomial": lambda f: likelihoods.Binomial(f, IMAGE, total_count=3),
    "logistic": lambda f: likelihoods.DiscretizedLogistic(f, IMAGE, num_levels=4),
    "logistic mixture": lambda f: likelihoods.DiscretizedLogisticMixture(f, IMAGE, num_components=2, num_levels=4),
    "poisson": lambda f: likelihoods.Poisson(f, IMAGE),
    "negative binomial": lambda f: likelihoods.NegativeBinomial(f, IMAGE),
    "zero-inflated poisson": lambda f: likelihoods.ZeroInflatedPoisson(f, IMAGE),
    "zero-inflated negative binomial": lambda f: likelihoods.ZeroInflatedNegativeBinomial(f, IMAGE),
    "nominal": lambda f: likelihoods.Nominal(f, IMAGE, num_categories=3),
}
LIKELIHOODS = tuple(_LIKELIHOODS)


def likelihood(name: str, network: str) -> nn.Module:
    make = _LIKELIHOODS[name]
    return make(decoder(network, make(None).output_shape))


def data(name: str, seed: int = 0) -> Tensor:
    """Data of the kind that a likelihood is for, ``(4, 4, 4)``."""
    random = torch.Generator().manual_seed(seed)
    if name in ("gaussian", "laplace", "student t"):
        return torch.randn(NUM_DATA, *IMAGE, generator=random)
    if name == "continuous bernoulli":
        return torch.rand(NUM_DATA, *IMAGE, generator=random)
    top, step = {"bernoulli": (1, 1), "nominal": (2, 1)}.get(name, (3, 1 if "poisson" in name or "neg" in name else 3))
    return torch.randint(0, top + 1, (NUM_DATA, *IMAGE), generator=random) / step


def composed(posterior: str, prior: str, likelihood_name: str = "bernoulli", network: str = "mlp") -> VAE:
    """A VAE of the four."""
    q = POSTERIORS[posterior](network)
    return VAE(posterior=q, prior=PRIORS[prior](q), likelihood=likelihood(likelihood_name, network))
