"""A program with one discrete latent, run on all its draws at once, so that expectations are sums of a few terms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

STATES = 3


class Tuples(dist.Categorical):
    """K draws for each of STATES ** K data: datum number b gets the b-th tuple of states."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        num_particles = self.batch_shape[0] if len(self.batch_shape) == 2 else 1
        grid = torch.tensor(list(itertools.product(range(STATES), repeat=num_particles))).T  # (K, B)
        return grid if len(self.batch_shape) == 2 else grid[0]


class Model(pyro.nn.PyroModule):
    """z ~ Categorical(p), x ~ N(mean of the state, 1)."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.prior_logits = nn.Parameter(torch.tensor([0.2, -0.3, 0.5]).double().repeat(num_data, 1))
        self.means = nn.Parameter(torch.tensor([-1.0, 0.4, 2.0]).double().repeat(num_data, 1))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=self.prior_logits))
            mean = self.means.expand(*z.shape, STATES).gather(-1, z[..., None])[..., 0]
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Guide(pyro.nn.PyroModule):
    """q(z): one vector of logits a datum, so that each datum has a gradient of its own."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.9, -0.5, 0.1]).double().repeat(num_data, 1))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", Tuples(logits=self.logits))


class Discrete:
    """The pair, all K-tuples of its draws, and the exact weights and probabilities."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self.tuples = list(itertools.product(range(STATES), repeat=num_particles))
        self.model, self.guide = Model(len(self.tuples)), Guide(len(self.tuples))
        self.x = torch.full((len(self.tuples),), 0.3).double()
        self.q: np.ndarray = self.guide.logits[0].softmax(-1).detach().numpy()
        log_p = self.model.prior_logits[0].log_softmax(-1) + dist.Normal(self.model.means[0], 1.0).log_prob(self.x[0])
        self.w: np.ndarray = log_p.exp().detach().numpy() / self.q

    @property
    def probability(self) -> Tensor:
        """Of each tuple, ``(B,)``."""
        return torch.tensor([np.prod(self.q[list(states)]) for states in self.tuples])

    def exact_mean(self, reduce: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of E[reduce(log w)] by the guide's logits, the prior's and the means: a sum over the tuples."""
        logits, prior_logits, means = (
            parameter[0].detach().clone().requires_grad_()
            for parameter in (self.guide.logits, self.model.prior_logits, self.model.means)
        )
        index = torch.tensor(self.tuples).T  # (K, B)
        log_q = logits.log_softmax(-1)
        log_w = prior_logits.log_softmax(-1) + dist.Normal(means, 1.0).log_prob(self.x[0]) - log_q
        mean = (log_q[index].sum(0).exp() * reduce(log_w[index])).sum()
        first, second, third = torch.autograd.grad(mean, (logits, prior_logits, means))
        return first, second, third
