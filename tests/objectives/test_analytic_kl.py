"""The KL in closed form inside the ELBO: its mean, where there is no formula, and under scales."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO

import pyro_vae
from pyro_vae import ELBO
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.kl import analytic_kl
from pyro_vae.inference.pair import ProgramPair

D = 5  # pixels of the fixtures vae and x


class Chain(pyro.nn.PyroModule):
    """z2 -> z1 -> x in the model; the guide draws z1 given x, then z2 given z1 (or the other way round)."""

    def __init__(self, bottom_up: bool) -> None:
        super().__init__()
        self.bottom_up = bottom_up

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(0.7 * z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            if self.bottom_up:
                z1 = pyro.sample("z1", dist.Normal(0.5 * x, 0.6))
                pyro.sample("z2", dist.Normal(0.8 * z1, 0.7))
            else:
                z2 = pyro.sample("z2", dist.Normal(0.4 * x, 0.9))
                pyro.sample("z1", dist.Normal(0.3 * z2 + 0.2 * x, 0.6))


@pytest.mark.parametrize("bottom_up", [True, False])
def test_analytic_kl_of_a_hierarchy_has_the_sampled_mean(bottom_up):
    """TraceMeanField_ELBO gets the bottom-up guide wrong: it integrates z1 out though p(z1|z2) waits for z2."""
    chain, x = Chain(bottom_up), torch.full((100_000,), 1.3)
    estimates = [
        objective.bound(chain.model, chain.guide, x)
        for objective in (ELBO(), ELBO(kl="analytic"))
    ]  # fmt: skip
    errors = [estimate.std().item() / math.sqrt(len(x)) for estimate in estimates]
    difference = (estimates[0].mean() - estimates[1].mean()).item()
    assert abs(difference) < 4.5 * math.hypot(*errors)  # a false alarm in 150,000 runs
    pair = trace_pair(ProgramPair(chain.model, chain.guide), x)
    assert (analytic_kl(pair, "z1", True) is None) == bottom_up
    assert analytic_kl(pair, "z2", True) is not None
    if bottom_up:
        with pytest.warns(UserWarning, match="mean field"):
            wrong = -TraceMeanField_ELBO().loss(chain.model, chain.guide, x) / len(x)
        assert abs(wrong - estimates[0].mean().item()) > 20 * math.hypot(*errors)


def test_analytic_kl_falls_back_to_samples_where_there_is_no_formula(x):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.StudentT(5.0, 0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, D]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.5))

    bounds = []
    for kl in ("sample", "analytic"):
        torch.manual_seed(3)
        bounds.append(ELBO(3, kl=kl).bound(model, guide, x))
    torch.testing.assert_close(*bounds, rtol=0, atol=0)


def test_analytic_kl_is_left_to_samples_where_the_programs_scale_it_differently(vae, x):
    """TraceMeanField_ELBO would weigh the whole KL by the guide's scale alone."""
    guide = poutine.scale(vae.guide, scale=0.5)
    bounds = []
    for kl in ("sample", "analytic"):
        torch.manual_seed(3)
        bounds.append(ELBO(kl=kl).bound(vae.model, guide, x))
    torch.testing.assert_close(*bounds, rtol=0, atol=0)


def test_latent_scale_relative_to_the_data_weighs_its_kl(vae, x):
    class Annealed(pyro.nn.PyroModule):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def model(self, x):
            with pyro.plate("data", len(x), dim=-1):
                with poutine.scale(scale=self.weight):
                    z = pyro.sample("z", vae.prior())
                pyro.sample("x", vae.likelihood(z), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=self.weight):
                pyro.sample("z", vae.posterior(x))

    half = Annealed(0.5)
    torch.manual_seed(3)
    terms = trace_pair(ProgramPair(vae.model, vae.guide), x).terms()
    torch.manual_seed(3)
    bound = ELBO().bound(half.model, half.guide, x)
    torch.testing.assert_close(bound, (terms["x"] + 0.5 * terms["z"])[0], rtol=0, atol=1e-12)
    torch.manual_seed(3)
    whole = pyro_vae.log_weights(half.model, half.guide, x)
    torch.testing.assert_close(whole, terms["x"] + terms["z"], rtol=0, atol=1e-12)  # what is reported is the true one


def test_unknown_kl_is_refused():
    with pytest.raises(ValueError, match=r"kl: found 'exact', expected one of 'sample', 'analytic'"):
        ELBO(kl="exact")
