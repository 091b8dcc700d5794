"""A chain of two Gaussian latents, written out, with parameters of each datum whose gradients are independent."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Model(pyro.nn.PyroModule):
    """z2 ~ N(0, 1), z1 ~ N(a z2, 0.7), x ~ N(b z1, 0.5): a and b for each datum, whose gradients are independent."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((num_data,), 0.8).double())
        self.b = nn.Parameter(torch.full((num_data,), 1.1).double())

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7))
            pyro.sample("x", dist.Normal(self.b * z1, 0.5), obs=x)


class Guide(pyro.nn.PyroModule):
    """z1 ~ N(c x, s), z2 ~ N(d z1, t): bottom up, so that z2 follows z1."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        values = {"c": 0.5, "d": 0.6, "log_s": -0.5, "log_t": -0.1}
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.full((num_data,), value).double()))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.c * x, self.log_s.exp()))
            pyro.sample("z2", dist.Normal(self.d * z1, self.log_t.exp()))


def chain(num_data: int) -> tuple[Model, Guide, torch.Tensor]:
    return Model(num_data), Guide(num_data), torch.full((num_data,), 0.7).double()


def gradients(objective, model, guide, x, seed=3):
    """The gradient of the bound by every parameter, ``(B,)`` each, by name."""
    torch.manual_seed(seed)
    named = [*guide.named_parameters(), *model.named_parameters()]
    found = torch.autograd.grad(objective.bound(model, guide, x).sum(), [p for _, p in named])
    return {name: gradient for (name, _), gradient in zip(named, found, strict=True)}
