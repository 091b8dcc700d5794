r"""Chains of linear Gaussian layers, as programs and as numbers.

.. math:: z_T \sim \mathcal{N}(b_T, S_T), \quad z_t|z_{t+1} \sim \mathcal{N}(A_t z_{t+1} + b_t, S_t), \quad
          x|z_1 \sim \mathcal{N}(A_0 z_1 + b_0, S_0)

All of it is one Gaussian vector (x, z_1, ..., z_T), whose mean and covariance follow from the matrices; so do log p(x),
every conditional, and the expected log weight of any guide that is linear too. None of these numbers runs a program of
the package, nor :class:`Affine`'s forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae

DATA_DIM, LATENT_DIMS = 5, (4, 3, 2, 2)
Order = Literal["bottom-up", "top-down"]


class FixedNormal(dist.Normal):
    """A Normal whose K draws are at ``loc + scale * noise``, noise of shape ``(K, 1, D)``."""

    noise: Tensor

    def expand(self, batch_shape: Any, _instance: Any = None) -> FixedNormal:
        expanded = super().expand(batch_shape, _instance)
        expanded.noise = self.noise
        return expanded

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self.noise


class Affine(nn.Module):
    """N(b + A y + A' y' + ..., S) of the vectors given; S = diag(scale²), or L Lᵀ for a scale that is a matrix L."""

    def __init__(self, *weights: Tensor, bias: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weight.detach().clone() for weight in weights)
        self.bias, self.scale = nn.Parameter(bias.detach().clone()), nn.Parameter(scale.detach().clone())
        self.noise: Tensor | None = None

    @property
    def scale_tril(self) -> Tensor:
        return torch.diag(self.scale) if self.scale.dim() == 1 else self.scale

    def forward(self, *given: Tensor) -> dist.Distribution:
        loc = self.bias
        for weight, value in zip(self.weights, given, strict=True):
            loc = loc + value @ weight.T
        if self.scale.dim() == 2:
            return dist.MultivariateNormal(loc, scale_tril=self.scale)
        if self.noise is None:
            return dist.Normal(loc, self.scale).to_event(1)
        normal = FixedNormal(loc, self.scale)
        normal.noise = self.noise
        return normal.to_event(1)


def random_affine(random: torch.Generator, size: int, *given: int) -> Affine:
    """A diagonal Gaussian of random weights, biases and scales."""
    weights = [torch.randn(size, d, generator=random, dtype=torch.float64) / math.sqrt(d) for d in given]
    bias = torch.randn(size, generator=random, dtype=torch.float64)
    return Affine(*weights, bias=bias, scale=0.4 + torch.rand(size, generator=random, dtype=torch.float64))


def log_normal(value: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(value; mean, covariance) over the last dimension, by its formula."""
    away = value - mean
    squared = (away @ covariance.inverse() * away).sum(-1)
    return -0.5 * (squared + covariance.logdet() + len(covariance) * math.log(2 * math.pi))


@dataclass
class LinearChain:
    """``layers[0]`` is p(x|z_1), ``layers[t]`` p(z_t|z_{t+1}), and the last p(z_T)."""

    layers: list[Affine]

    @classmethod
    def random(cls, num_layers: int, seed: int = 0) -> LinearChain:
        random = torch.Generator().manual_seed(seed)
        sizes = (DATA_DIM, *LATENT_DIMS[:num_layers])
        above = [(size,) for size in sizes[1:]]
        return cls([random_affine(random, size, *given) for size, given in zip(sizes, [*above, ()], strict=True)])

    @property
    def sizes(self) -> list[int]:
        """The lengths of x, z_1, ..., z_T."""
        return [len(layer.bias) for layer in self.layers]

    def data(self, num_data: int = 6) -> Tensor:
        """Data of about the model's spread."""
        random = torch.Generator().manual_seed(11)
        return 1 + 2 * torch.randn(num_data, self.sizes[0], generator=random, dtype=torch.float64)

    # -- as a program --

    def program(self, posteriors: Sequence[nn.Module], guide: Order) -> pyro_vae.HVAE:
        likelihood, *transitions = self.layers[:-1]
        return pyro_vae.HVAE(
            prior=self.layers[-1], transitions=transitions, likelihood=likelihood, posteriors=posteriors, guide=guide
        )

    def random_posteriors(self, guide: Order, seed: int = 1) -> list[Affine]:
        """Some diagonal guide, nowhere near the posterior."""
        random = torch.Generator().manual_seed(seed)
        return [random_affine(random, self.sizes[t], *(self.sizes[s] for s in self.given(t, guide)))
                for t in range(1, len(self.layers))]  # fmt: skip

    def exact_posteriors(self, guide: Order) -> list[Affine]:
        """p(z_t|z_{t-1}), or p(z_t|x, z_{t+1}): the factors of the posterior in that order, full covariances."""
        posteriors = []
        for t in range(1, len(self.layers)):
            weights, bias, covariance = self.conditional(t, self.given(t, guide))
            scale_tril = torch.linalg.cholesky(covariance)
            posteriors.append(Affine(*weights, bias=bias, scale=scale_tril))
        return posteriors

    # -- as numbers; variable 0 is x, variable t is z_t --

    def given(self, t: int, guide: Order) -> list[int]:
        """What a guide draws variable t from."""
        if guide == "bottom-up":
            return [t - 1]
        return [0] if t == len(self.layers) - 1 else [0, t + 1]

    @property
    def joint(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of v = (x, z_1, ..., z_T): v = C v + b + e, so (I - C)⁻¹ b and (I - C)⁻¹ S (I - C)⁻ᵀ."""
        at = self.slices
        total = sum(self.sizes)
        unmixing = torch.eye(total, dtype=torch.float64)
        for t, layer in enumerate(self.layers[:-1]):
            unmixing[at[t], at[t + 1]] -= layer.weights[0].detach()
        mixing = unmixing.inverse()
        noise = torch.block_diag(*(layer.scale_tril.detach() for layer in self.layers))
        return mixing @ torch.cat([layer.bias.detach() for layer in self.layers]), mixing @ noise @ noise.T @ mixing.T

    @property
    def slices(self) -> list[slice]:
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def marginal(self, t: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance of a variable."""
        mean, covariance = self.joint
        at = self.slices[t]
        return mean[at], covariance[at, at]

    def conditional(self, t: int, given: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """The weights by each given variable, the bias and the covariance of p(variable t | given)."""
        mean, covariance = self.joint
        at = self.slices
        rows = torch.cat([torch.arange(at[s].start, at[s].stop) for s in given])
        across = covariance[at[t]][:, rows]
        gain = torch.linalg.solve(covariance[rows][:, rows], across.T).T
        weights = list(gain.split([self.sizes[s] for s in given], dim=1))
        return weights, mean[at[t]] - gain @ mean[rows], covariance[at[t], at[t]] - gain @ across.T

    def log_p(self, x: Tensor) -> Tensor:
        """The exact log p(x) of each datum, ``(N,)``."""
        return log_normal(x, *self.marginal(0))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(N, n)`` and covariance ``(n, n)`` of p(z_1, ..., z_T|x)."""
        mean, covariance = self.joint
        d = self.sizes[0]
        gain = covariance[d:, :d] @ covariance[:d, :d].inverse()
        return mean[d:] + (x - mean[:d]) @ gain.T, covariance[d:, d:] - gain @ covariance[:d, d:]

    def guide_moments(self, posteriors: Sequence[Affine], guide: Order, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(N, n)`` and covariance ``(n, n)`` of q(z_1, ..., z_T|x), differentiable by the guide's parameters.

        Each z_t is its mean plus N_t ε for one standard normal ε of length n; both are propagated in the guide's order.
        """
        top, d = len(self.layers) - 1, self.sizes[0]
        size = sum(self.sizes) - d
        means, factors = {0: x}, {0: torch.zeros(d, size, dtype=x.dtype)}
        for t in range(1, top + 1) if guide == "bottom-up" else range(top, 0, -1):
            part, at = posteriors[t - 1], self.slices[t]
            own = torch.eye(size, dtype=x.dtype)[at.start - d : at.stop - d]
            means[t], factors[t] = part.bias.expand(len(x), -1), part.scale_tril @ own
            for weight, s in zip(part.weights, self.given(t, guide), strict=True):
                means[t], factors[t] = means[t] + means[s] @ weight.T, factors[t] + weight @ factors[s]
        factor = torch.cat([factors[t] for t in range(1, top + 1)])
        return torch.cat([means[t] for t in range(1, top + 1)], 1), factor @ factor.T

    def elbo(self, posteriors: Sequence[Affine], guide: Order, x: Tensor) -> Tensor:
        """E_q[log p(x, z)] + H[q] of each datum, ``(N,)``: a quadratic form's expectation needs two moments."""
        mean, covariance = self.joint
        d = self.sizes[0]
        q_mean, q_covariance = self.guide_moments(posteriors, guide, x)
        at_mean = log_normal(torch.cat([x, q_mean], 1), mean, covariance)
        spread = -0.5 * (covariance.inverse()[d:, d:] * q_covariance).sum()
        entropy = 0.5 * (q_covariance.logdet() + len(q_covariance) * (1 + math.log(2 * math.pi)))
        return at_mean + spread + entropy

    def kl_to_posterior(self, posteriors: Sequence[Affine], guide: Order, x: Tensor) -> Tensor:
        """KL(q(z_1, ..., z_T|x) || p(z_1, ..., z_T|x)) of each datum, ``(N,)``."""
        q_mean, q_covariance = self.guide_moments(posteriors, guide, x)
        mean, covariance = self.posterior(x)
        away, precision = q_mean - mean, covariance.inverse()
        volumes = (precision @ q_covariance).trace() - len(covariance) + covariance.logdet() - q_covariance.logdet()
        return 0.5 * ((away @ precision * away).sum(1) + volumes)

    def at_sigma_points(self, posteriors: Sequence[Affine]) -> int:
        """Make diagonal posteriors draw ±√n e_i for ε; return the number of particles, K = 2 n.

        Those points have the mean and the covariance of ε, so the mean over them of a quadratic function of the
        latents, as log w is, is its expectation under the guide: the package's own number without Monte Carlo error.
        """
        size = sum(self.sizes[1:])
        axes = math.sqrt(size) * torch.eye(size, dtype=torch.float64)
        noise = torch.cat([axes, -axes])[:, None]  # (K, 1, n)
        for part, own in zip(posteriors, noise.split(self.sizes[1:], dim=-1), strict=True):
            part.noise = own
        return 2 * size
