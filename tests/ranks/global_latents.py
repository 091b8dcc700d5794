"""A latent of all data at once under ranks, of which each draws its own value: a run, and the same run by hand.

.. math:: W \\sim N(0, 1), \\quad z_b \\sim N(W, 1), \\quad x_b \\sim N(z_b, 1), \\qquad
          q(W) = N(m, s^2), \\quad q(z_b|x_b, W) = p(z_b|x_b, W)

The draw of W is given: m + s on ranks of even numbers, m - s on the others. A weight is :math:`N(x_b; W, 2)`, whatever
z is. So the gradient given W has no noise, for any number of particles, and is a quadratic function of the draw: its
mean over both draws is its expectation.
"""

from __future__ import annotations

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae.runtime.ranks import Ranks, ranks
from tests.ranks.scenarios import error_of
from tests.support.global_latents import X

N, B, RATE, NUM_EPOCHS = len(X), 4, 0.1, 2
OBJECTIVES = {
    "elbo": pyro_vae.ELBO(2),
    "iwae": pyro_vae.IWAE(3),
    "pyro": Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1),
}
RUNS = (  # how the programs say how many data there are, an objective, and whether there is W
    *(("len(x)", name, True) for name in OBJECTIVES),
    ("N", "iwae", True),
    ("N", "elbo", False),
    ("by hand", "pyro", True),
    ("by hand", "iwae", False),
)


def sign(rank):
    return 1.0 if rank % 2 == 0 else -1.0


class Pair(nn.Module):
    """The programs, with or without W."""

    def __init__(self, kind="len(x)", is_global=True):
        super().__init__()
        self.kind, self.is_global = kind, is_global
        self.loc, self.log_scale = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.3, -0.5))
        self.log_scale.requires_grad_(is_global)

    def plate(self, x):
        return pyro.plate("data", N if self.kind == "N" else len(x), subsample_size=len(x))

    def scale(self, x):
        return poutine.scale(scale=N / len(x)) if self.kind == "by hand" else nullcontext()

    def model(self, x):
        pyro.module("pair", self)
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0)) if self.is_global else self.loc
        with self.plate(x), self.scale(x):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        pyro.module("pair", self)
        w = self.loc
        if self.is_global:
            q = dist.Normal(self.loc, self.log_scale.exp())
            w = self.loc + sign(ranks().rank) * self.log_scale.exp()
            pyro.sample("w", dist.Delta(w, log_density=q.log_prob(w)))
        with self.plate(x), self.scale(x):
            pyro.sample("z", dist.Normal((x + w) / 2, 0.5**0.5))


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=RATE)


def fit(pair, objective, **options):
    options = {"num_epochs": NUM_EPOCHS, "seed": 0, "progress": False} | options
    return pyro_vae.fit(pair.model, pair.guide, DataLoader(X, B), objective=objective, optimizer=sgd, **options)


def global_latents():
    """Train with every objective, and with every way to say how many data there are; with W and without."""
    found = {}
    for kind, name, is_global in RUNS:
        pair = Pair(kind, is_global)
        records = fit(pair, OBJECTIVES[name]).records
        found[kind, name, is_global] = state_of(pair, [record["train_bound"] for record in records])
    wake = pyro_vae.ReweightedWakeSleep(2, guide_phase="wake")
    pair = Pair()
    error = error_of(lambda: pyro_vae.fit(pair.model, pair.guide, X, objective=wake, batch_size=N, progress=False))
    return found, error


def state_of(pair, bounds):
    return torch.stack([pair.loc.detach(), pair.log_scale.detach(), *torch.tensor(bounds, dtype=torch.float64)])


def loss(pair, x, rank, is_global=True):
    """The mean loss of some data, W and what it adds to each included."""
    if not is_global:
        return -dist.Normal(pair.loc, 2**0.5).log_prob(x).mean()
    w = pair.loc + sign(rank) * pair.log_scale.exp()
    term = dist.Normal(0.0, 1.0).log_prob(w) - dist.Normal(pair.loc, pair.log_scale.exp()).log_prob(w)
    return -dist.Normal(w, 2**0.5).log_prob(x).mean() - term / N


def by_hand(size, is_global):
    """The same run, by gradient descent on the losses of the shares."""
    pair = Pair(is_global=is_global)
    optimizer, bounds = sgd(pair.parameters(), RATE), []
    for _ in range(NUM_EPOCHS):
        total = 0.0
        for x in X.split(B):
            shares = [(rank, x[Ranks(rank, size).share(len(x))]) for rank in range(size)]
            whole = sum(len(share) * loss(pair, share, rank, is_global) for rank, share in shares if len(share))
            optimizer.zero_grad()
            (whole / len(x)).backward()
            optimizer.step()
            total -= whole.item()
        bounds.append(total / N)
    return state_of(pair, bounds)
