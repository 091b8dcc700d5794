"""Draws of latents are held against the support of the model, whose formula has a value outside of it, too."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_vae import ELBO, ProgramError, fit, log_likelihood
from pyro_vae.evaluation.bounds import mean_bound


def with_prior(prior, posterior):
    """Return a pair x ~ N(z, 1) with a prior and a posterior of z."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", prior(x)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide


NUMBERS = torch.linspace(-1.0, 1.0, 20).double()
POSITIVE = {
    "exponential": lambda x: dist.Exponential(torch.ones_like(x)),
    "gamma": lambda x: dist.Gamma(torch.ones_like(x), 1.0),
    "chi2": lambda x: dist.Chi2(torch.full_like(x, 2.0)),
    "beta": lambda x: dist.Beta(torch.ones_like(x), 1.0),
    "bounds of each datum": lambda x: dist.Pareto(0.1 + x.abs(), 1.0),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_draws_of_latents_lie_in_the_support_of_the_model(name):
    """Where a formula has a value outside of its support, an estimate would count it."""
    pair = with_prior(POSITIVE[name], lambda x: dist.Normal(x, 1.5))
    message = r"^site 'z': found the draw -?\d+.* of the guide's Normal\(.* outside the support of the model's \w+\("
    for run in (log_likelihood, lambda *_: mean_bound(*_, ELBO()), lambda *_: fit(*_, batch_size=20)):
        with pytest.raises(ProgramError, match=message):
            run(*pair, NUMBERS)


@pytest.mark.parametrize(
    "prior",
    [
        lambda x: dist.HalfNormal(torch.ones_like(x)),
        lambda x: dist.Exponential(torch.ones_like(x)).mask(x > 2),
    ],
    ids=["a density of zero", "masked"],
)
def test_draws_that_weigh_nothing_are_let_pass(prior):
    def posterior(x):
        return dist.Normal(x, 1.5) if "HalfNormal" in str(prior(x)) else dist.Normal(x, 1.5).mask(x > 2)

    assert log_likelihood(*with_prior(prior, posterior), NUMBERS, 5).values.shape == (20,)


def test_the_simplex_of_an_autoguide_is_let_pass():
    """Its draws lie there but for rounding, with many entries in single precision."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(3000)))
            pyro.sample("x", dist.Normal(z.square().sum(-1), 1.0), obs=x)

    guide = AutoNormal(model)
    guide(NUMBERS)
    assert log_likelihood(model, guide, NUMBERS, 2, batch_size=20).values.shape == (20,)
