"""Every value that a program observes is held against its support, whatever part of a datum it is."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae import ELBO, ConditionalVAE, ProgramError, anneal_kl, diagnose, fit, impute, log_likelihood, refine
from pyro_vae.evaluation.bounds import mean_bound
from tests.support.programs import weights


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Mixed(PyroModule):
    """Two real columns and one of 0 and 1, each a site of its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            out = self.net(z)
            pyro.sample("real", dist.Normal(out[..., :2], 1.0).to_event(1), obs=x[:, :2])
            pyro.sample("bit", dist.Bernoulli(logits=out[..., 2]), obs=x[:, 2])


def mixed():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(20, 2), torch.bernoulli(torch.full((20, 1), 0.5))], 1)
    x[13:, 2] = -3.0
    return (Mixed(), Guide()), x


MESSAGE = r": found the value -3 at \(13,\), outside the support of site 'bit', .* a Bernoulli covers, Boolean\(\); bin"
CALLS = {
    "log_likelihood": lambda pair, x: log_likelihood(*pair, x, 5, batch_size=4),
    "log_likelihood of a loader": lambda pair, x: log_likelihood(*pair, DataLoader(x, batch_size=4), 5),
    "fit": lambda pair, x: fit(*pair, x, batch_size=4, num_epochs=1, progress=False),
    "fit on a loader": lambda pair, x: fit(*pair, DataLoader(x, batch_size=4), num_epochs=1, progress=False),
    "fit of an annealed pair": lambda pair, x: fit(*anneal_kl(*pair, 0.5), x, batch_size=4, progress=False),
    "validation": lambda pair, x: fit(*pair, x[:13], batch_size=4, num_epochs=1, valid=x, progress=False),
    "diagnose": lambda pair, x: diagnose(*pair, x, batch_size=4),
    "mean_bound": lambda pair, x: mean_bound(*pair, x, ELBO(), batch_size=4),
    "refine": lambda pair, x: refine(*pair, x, 1, progress=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_site_that_observes_a_part_is_checked_over_all_data(name):
    pair, x = mixed()
    before = weights(*pair)
    argument = "valid" if name == "validation" else "data" if name.startswith("fit") else "x"
    with pytest.raises(ValueError, match=f"^{argument}{MESSAGE}"):
        CALLS[name](pair, x)
    after = weights(*pair)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", CALLS)
def test_what_it_covers_is_taken(name):
    pair, x = mixed()
    x[:, 2] = x[:, 2].clamp(min=0)
    CALLS[name](pair, x)


class Observing(PyroModule):
    """A model whose observed site has the distribution and the values that a function of data and latents returns."""

    def __init__(self, make):
        super().__init__()
        self.make, self.scale = make, nn.Parameter(torch.ones(()))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), self.scale).to_event(1))
            fn, values = self.make(x, z)
            pyro.sample("x", fn, obs=values)


def check(make, x):
    return log_likelihood(Observing(make), Guide(), x, 2, batch_size=4)


X = torch.rand(10, 3, generator=torch.Generator().manual_seed(1))
SIMPLEX = X / X.sum(-1, keepdim=True)
COUNTS = torch.arange(30.0).reshape(10, 3)  # of which each batch has more than the one before
CHOLESKY = torch.stack([torch.ones(3, 3), torch.eye(3)])  # the first is none
SMALLER = SIMPLEX * (1 - 0.1 * (torch.arange(10) == 6)[:, None])
REFUSED = {
    "of a transformed one": (
        lambda x, z: (dist.LogNormal(0.0, 1.0).expand(x.shape).to_event(1), x - 0.9),
        X,
        "value .* a LogNormal covers, Greater",
    ),
    "a vector": (lambda x, z: (dist.Dirichlet(torch.ones(3)), x), SMALLER, r"value \[.*\] at \(6,\), .* Dirichlet cov"),
    "a function": (lambda x, z: (dist.Exponential(1.0), x[:, 1] - 0.8), X, r"value -0\.\d+ at \(\d,\), .*Exponential"),
    "masked elsewhere": (
        lambda x, z: (dist.Bernoulli(0.5).expand(x.shape).mask(x < 0.5).to_event(1), x.round().sub((x < 0.1).float())),
        X,
        r"value -1 at \(\d, \d\), outside",
    ),
}
TAKEN = {
    "a vector": (REFUSED["a vector"][0], SIMPLEX),
    "masked by the distribution": (
        lambda x, z: (dist.Bernoulli(0.5).expand(x.shape).mask(x < 0).to_event(1), x - 3),
        X,
    ),
    "whole, masked by the distribution": (
        lambda x, z: (dist.Bernoulli(0.5).expand(x.shape).mask(x >= 0).to_event(1), x),
        torch.where(X < 0.3, -1.0, X.round()),
    ),
    "whole, rows masked": (
        lambda x, z: (dist.Bernoulli(0.5).expand(x.shape).to_event(1).mask(x[:, 0] >= 0), x),
        torch.where(X[:, :1] < 0.3, -1.0, X.round()),
    ),
    "events of two dimensions": (
        lambda x, z: (dist.LKJCholesky(3, torch.ones(len(x))).mask(x[:, 0] > 0.5), CHOLESKY[(x[:, 0] > 0.5).long()]),
        X,
    ),
    "of parameters": (lambda x, z: (dist.Uniform(x - 1 - z[..., :1].abs(), x + 1).to_event(1), x + 0.5), X),
    "of bounds that a batch has": (lambda x, z: (dist.Multinomial(int(x.sum(-1).max()), torch.ones(3)), x), COUNTS),
    "of all numbers": (lambda x, z: (dist.Laplace(z[..., :1], 1.0).expand([*z.shape[:-1], 3]).to_event(1), -3 * x), X),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_supports_are_held_too(name):
    make, x, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^x: found the {message}"):
        check(make, x)


@pytest.mark.parametrize("name", TAKEN)
def test_what_does_not_count_or_cannot_be_told_is_let_pass(name):
    assert check(*TAKEN[name]).values.shape == (10,)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_bounds_of_a_single_datum_depend_on_its_latents_too(batch_size):
    """x lies within 1/4 of z, and z in (0, 1): p(x) is 1/2 at most."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(z - 0.25, z + 0.25, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(torch.ones(len(x)), 1.0))

    found = log_likelihood(model, guide, torch.tensor([0.5, 0.1, 0.9]), 100, batch_size=batch_size, seed=0)
    assert found.values.shape == (3,)


def test_packed_labels_and_their_data():
    cvae = ConditionalVAE((3,), 4, 2, (5,))
    x = torch.bernoulli(torch.full((20, 3), 0.5))
    x[17, 1] = 0.5
    where = re.escape("data: found the value 0.5 at (17, 1), outside the support of site 'x'")
    with pytest.raises(ValueError, match=f"^{where}"):
        fit(cvae.model, cvae.guide, cvae.pack(x, torch.arange(20) % 4), batch_size=5, num_epochs=1, progress=False)


@pytest.mark.parametrize("largest", [100.0, 1e6])
def test_counts_above_every_mean_of_the_likelihood(largest):
    class Counts(dist.Poisson):
        largest_mean = largest

    x = torch.poisson(torch.full((10, 3), 20.0))
    x[7, 2] = 2 * largest
    make = lambda x, z: (Counts(z[..., :1].abs().expand(*z.shape[:-1], 3)).to_event(1), x)  # noqa: E731
    where = (
        f"x: found the count {2 * largest:g} at (7, 2), above every mean of site 'x', expected at most high={largest:g}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(where)}"):
        check(make, x)
    x[7, 2] = 0.5 * largest
    assert len(check(make, x).values) == 10


def test_imputed_data_are_checked_where_they_are_observed():
    vae = pyro_vae.VAE((3,), 2, (4,))
    x = torch.bernoulli(torch.full((8, 3), 0.5))
    x[5, 1] = 7.0
    with pytest.raises(ValueError, match=r"^x: found the value 7 at \(5, 1\), outside the support of site 'x'"):
        impute(vae.model, vae.guide, x, num_particles=4)
    assert impute(vae.model, vae.guide, x, x != 7, num_particles=4).mean.shape == (8, 3)
    assert impute(vae.model, vae.guide, np.ma.masked_equal(x.numpy(), 7), num_particles=4).mean.shape == (8, 3)


def test_the_shape_of_the_data_is_named_for_other_programs_too():
    with pytest.raises(ProgramError, match=r"^site 'z': .* \(x of shape \(N, 1, 3\)\)$"):
        check(TAKEN["of all numbers"][0], X[:, None])
