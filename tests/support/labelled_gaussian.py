"""Linear Gaussian programs with labels: each class has a mean of its own, and the guide is the exact posterior.

    x = W z + c_y + σ ε,     x|y ~ N(c_y, WWᵀ + σ²I),     z|x, y ~ N(M⁻¹Wᵀ(x - c_y), σ²M⁻¹),     M = WᵀW + σ²I

The columns of W are orthogonal, so that M is diagonal, and so is the posterior's covariance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae import MLP, ConditionalMLP, DiagonalNormal, Gaussian
from pyro_vae.nn.scales import inverse_bounded_scale
from tests.support.linear_gaussian import PPCA

CLASSES = 3


class LabelledPPCA:
    """A few data with labels, a program of either kind for them, and the closed forms; all in float64."""

    def __init__(self, num_data: int = 5) -> None:
        self.ppca = PPCA.of()
        self.x, self.y = self.ppca.x[:num_data], torch.arange(num_data) % CLASSES  # (B, 6), (B,)
        self.means = torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def program(self, make: Any, off: float = 0.0) -> Any:
        """A ConditionalVAE or M2 whose guide is the exact posterior, or off by so much in its means and log-scales."""
        decoder, encoder = MLP(2 + CLASSES, 6, hidden_dims=()), ConditionalMLP(6, CLASSES, (2, 2), hidden_dims=())
        likelihood = Gaussian(decoder, (6,), scale="shared")
        program = make((6,), CLASSES, 2, (), likelihood, posterior=DiagonalNormal(encoder)).double()
        weights, variance = self.ppca.weights, self.ppca.variance
        to_mean = torch.linalg.solve(self.ppca.precision, weights.T)  # M⁻¹Wᵀ, (2, 6)
        scale = (variance / self.ppca.precision.diagonal()).sqrt()
        with torch.no_grad():
            likelihood.raw_scale.copy_(inverse_bounded_scale(variance.sqrt(), 1e-2, 1e1))
            decoder.output.weight.copy_(torch.cat([weights, self.means.T], 1))
            for layer in (encoder.from_x.output, encoder.from_z.output):
                layer.weight.zero_()
                layer.bias.zero_()
            encoder.from_x.output.weight[:2] = to_mean
            encoder.from_z.output.weight[:2] = -to_mean @ self.means.T
            encoder.from_x.output.bias[2:] = inverse_bounded_scale(scale, 1e-3, 1e3)
            encoder.from_x.output.bias += off
        return program

    def log_p_given_labels(self) -> Tensor:
        """log p(x|y) of every datum under every label, ``(C, B)``."""
        covariance = self.ppca.weights @ self.ppca.weights.T + self.ppca.variance * torch.eye(6, dtype=torch.float64)
        p = torch.distributions.MultivariateNormal(self.means[:, None], covariance)  # (C, 1)
        return p.log_prob(self.x)
