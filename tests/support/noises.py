"""Distributions of every kind of noise, for a batch of three, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import Flow
from pyro_vae.flows import FlowDistribution

B = 3


def _numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _positive(*shape: int, seed: int = 2) -> Tensor:
    return 0.5 + _numbers(*shape, seed=seed).abs()


def _tril(num_dims: int) -> Tensor:
    return torch.tril(0.3 * _numbers(B, num_dims, num_dims), -1) + torch.diag_embed(_positive(B, num_dims))


def _flow(name: str) -> FlowDistribution:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        flow = Flow(name, 2, num_transforms=2, hidden_dims=(4,)).double().requires_grad_(False)
    return FlowDistribution(dist.Normal(torch.zeros(B, 2).double(), 1.0).to_event(1), flow.transform(None))


def _mixture() -> Any:
    components = dist.Gamma(_positive(B, 2), _positive(B, 2, seed=3))
    return dist.MixtureSameFamily(dist.Categorical(logits=_numbers(B, 2)), components)


SCALARS: dict[str, Callable[[], Any]] = {
    "Normal": lambda: dist.Normal(_numbers(B), _positive(B)),
    "Gamma": lambda: dist.Gamma(_positive(B), _positive(B, seed=3)),
    "Beta": lambda: dist.Beta(_positive(B), _positive(B, seed=3)),
    "Uniform": lambda: dist.Uniform(_numbers(B), _numbers(B) + _positive(B)),
    "LogNormal": lambda: dist.LogNormal(_numbers(B), _positive(B)),
    "StudentT": lambda: dist.StudentT(5.0, _numbers(B), _positive(B)),
    "mixture of gammas": _mixture,
}
VECTORS: dict[str, Callable[[], Any]] = {
    "Normal of a vector": lambda: dist.Normal(_numbers(B, 2), _positive(B, 2)).to_event(1),
    "Gamma of a matrix": lambda: dist.Gamma(_positive(B, 2, 2), 1.0).to_event(2),
    "masked": lambda: dist.Normal(_numbers(B, 2), _positive(B, 2)).to_event(1).mask(torch.tensor([True, False, True])),
    "masked inside": lambda: dist.Normal(_numbers(B, 2), 1.0).mask(torch.tensor([True, False])).to_event(1),
    "MultivariateNormal": lambda: dist.MultivariateNormal(_numbers(B, 3), scale_tril=_tril(3)),
    "LowRank": lambda: dist.LowRankMultivariateNormal(_numbers(B, 3), _numbers(B, 3, 1, seed=4), _positive(B, 3)),
    "mixture of Gaussians": lambda: dist.MixtureOfDiagNormals(
        _numbers(B, 2, 2), _positive(B, 2, 2), _numbers(B, 2, seed=5)
    ),
    "Dirichlet": lambda: dist.Dirichlet(_positive(B, 3)),
    "correlations": lambda: dist.LKJCholesky(3, torch.tensor(2.0).double()).expand([B]),
    "autoregressive": lambda: _flow("autoregressive"),
    "coupling": lambda: _flow("coupling"),
    "planar": lambda: _flow("planar"),
}
DISTRIBUTIONS = SCALARS | VECTORS
WITHOUT_INVERSE = ("planar",)
WITHOUT_NOISE: dict[str, Callable[[], Any]] = {
    "Bernoulli": lambda: dist.Bernoulli(0.5),
    "Poisson": lambda: dist.Poisson(2.0),
    "OneHotCategorical": lambda: dist.OneHotCategorical(torch.ones(3)),
    "Delta": lambda: dist.Delta(torch.zeros(2)).to_event(1),
    "masked Delta": lambda: dist.Delta(torch.zeros(2)).mask(False),
    "ProjectedNormal": lambda: dist.ProjectedNormal(torch.ones(3)),
    "mixture between bounds": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))
    ),
}
