"""Pairs with one latent or two, from its prior and its posterior, for tests of what a latent tells."""

from __future__ import annotations

import pyro
import pyro.distributions as dist


def pair(prior, posterior, likelihood=lambda z: dist.Normal(z.new_zeros(()), 1.0)):
    """A model and a guide with one latent; of the data, ``(B, 1)``, one number is observed."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", likelihood(z), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", posterior(x))

    return model, guide


def standard_normal(num_units: int):
    return lambda x: dist.Normal(x.new_zeros(num_units), 1.0).to_event(1)


def hierarchy(lower_scale: float):
    """z1 = x + noise, z2 follows z1 (bottom up); in the model all is standard normal, z2 before z1."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x, lower_scale + 1e-3).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 0.5).to_event(1))

    return model, guide
