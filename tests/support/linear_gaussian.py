"""Linear Gaussian programs, whose quantities have closed forms, and draws that make expectations exact.

The linear VAE with the maximum-likelihood weights is probabilistic PCA (Tipping and Bishop 1999; Lucas et al. 2019):
for data of covariance S with eigenvalues λ₁ ≥ λ₂ ≥ … and eigenvectors U, and k latents,

    σ² = mean of λ_{k+1…d},   W = U_k (Λ_k − σ²)^{1/2} R,   M = WᵀW + σ²I.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae
from pyro_vae import MLP, DiagonalNormal, Gaussian, StandardNormal
from pyro_vae.nn.scales import inverse_bounded_scale


class SigmaPoints(dist.Normal):
    """A Normal whose K = 2 k draws are μ ± √k σ eᵢ: their mean of a quadratic function is its expectation, exactly."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        num_latents = self.loc.shape[-1]
        axes = math.sqrt(num_latents) * torch.eye(num_latents, dtype=self.loc.dtype)
        return self.loc + self.scale * torch.cat([axes, -axes])[:, None]  # (K, B, k)


class SigmaPointGuide(PyroModule):
    """The guide of ``vae``, its draws replaced by sigma points; run it with ``num_particles = 2 k``."""

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor) -> Tensor:
        q = self.posterior(x).base_dist
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", SigmaPoints(q.loc, q.scale).to_event(1))


@dataclass
class PPCA:
    """Data, their probabilistic PCA, and the best diagonal guide for a decoder rotated by ``angle``; k = 2."""

    x: Tensor  # (N, d), centred
    eigenvalues: Tensor  # (d,), falling
    variance: Tensor  # σ²
    weights: Tensor  # W, (d, k)
    vae: pyro_vae.VAE

    @classmethod
    def of(cls, angle: float = 0.0, num_data: int = 400) -> PPCA:
        generator = torch.Generator().manual_seed(7)
        mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        spread = torch.tensor([3.0, 2.0, 0.7, 0.6, 0.5, 0.4], dtype=torch.float64)
        x = torch.randn(num_data, 6, generator=generator, dtype=torch.float64) * spread @ torch.linalg.qr(mixing).Q
        x = x - x.mean(0)
        eigenvalues, vectors = torch.linalg.eigh(x.T @ x / num_data)
        eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
        variance = eigenvalues[2:].mean()
        rotation = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
        )
        weights = vectors[:, :2] * (eigenvalues[:2] - variance).sqrt() @ rotation
        return cls(x, eigenvalues, variance, weights, _linear_vae(weights, variance))

    @property
    def precision(self) -> Tensor:
        """M = WᵀW + σ²I; the exact posterior is N(M⁻¹Wᵀx, σ²M⁻¹)."""
        return self.weights.T @ self.weights + self.variance * torch.eye(2, dtype=torch.float64)

    def log_p(self) -> Tensor:
        """The exact log p(x) of each datum, ``(N,)``."""
        covariance = self.weights @ self.weights.T + self.variance * torch.eye(6, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance).log_prob(self.x)

    def exact_elbo(self) -> Tensor:
        """The ELBO of each datum under the guide, free of Monte Carlo error, ``(N,)``."""
        guide = SigmaPointGuide(self.vae.posterior)
        return pyro_vae.log_weights(self.vae.model, guide, self.x, num_particles=4).mean(0)


def _linear_vae(weights: Tensor, variance: Tensor) -> pyro_vae.VAE:
    decoder, encoder = MLP(2, 6, hidden_dims=()), MLP(6, (2, 2), hidden_dims=())
    vae = pyro_vae.VAE(
        prior=StandardNormal(2),
        likelihood=Gaussian(decoder, (6,), scale="shared"),
        posterior=DiagonalNormal(encoder),
    ).double()
    precision = weights.T @ weights + variance * torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        vae.likelihood.raw_scale.copy_(inverse_bounded_scale(variance.sqrt(), 1e-2, 1e1))
        decoder.output.weight.copy_(weights)
        encoder.output.weight.zero_()
        encoder.output.weight[:2] = torch.linalg.solve(precision, weights.T)
        encoder.output.bias[2:] = inverse_bounded_scale((variance / precision.diagonal()).sqrt(), 1e-3, 1e3)
    return vae
