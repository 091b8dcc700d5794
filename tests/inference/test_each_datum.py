"""Programs whose weights would not be those of log p(x) of each datum are refused, and trained by the ELBO."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, ReweightedWakeSleep
from tests.support.global_latents import close, seeded

pytestmark = pytest.mark.usefixtures("double")
X = torch.arange(12.0).reshape(3, 4).double() / 6 - 1


class TestPlatesThatSubsample:
    """A datum of 4 pixels x_i ~ N(z, 1), of which m are looked at."""

    @staticmethod
    def pair(size):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                with pyro.plate("pixels", 4, subsample_size=size, dim=-2) as i:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, i].T)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x.sum(1) / 5, 5**-0.5))

        return model, guide

    @pytest.mark.parametrize(
        "run",
        [
            lambda *pair: pyro_vae.log_likelihood(*pair, X, 10),
            lambda *pair: pyro_vae.log_weights(*pair, X, 2),
            lambda *pair: pyro_vae.diagnose(*pair, X),
            lambda *pair: IWAE(5).bound(*pair, X),
            lambda *pair: ReweightedWakeSleep(5, max_plate_nesting=2).bound(*pair, X),
            lambda *pair: pyro_vae.evaluation.mean_bound(*pair, X, IWAE(5)),
            lambda *pair: pyro_vae.fit(*pair, X, objective=IWAE(5), num_epochs=1, batch_size=3, progress=False),
        ],
    )
    def test_weights_of_a_part_of_a_datum_are_refused(self, run):
        with pytest.raises(ProgramError, match="^site 'x': found in a plate that draws a subsample, expected one of"):
            run(*self.pair(2))

    def test_the_elbo_takes_them_without_bias(self):
        """The guide is the posterior, so that the ELBO of all pixels is log p(x), at every draw."""
        truth = dist.MultivariateNormal(torch.zeros(4), torch.eye(4) + 1).log_prob(X)
        close(ELBO(3, max_plate_nesting=2).bound(*self.pair(4), X), truth)
        torch.manual_seed(0)
        bounds = torch.stack([ELBO(max_plate_nesting=2).bound(*self.pair(2), X) for _ in range(500)])
        # 4.5 standard errors for each of three data: a false alarm in 50,000 choices of the seed
        assert ((bounds.mean(0) - truth).abs() < 4.5 * bounds.std(0) / 500**0.5).all()

    def test_a_scale_of_the_users_own_is_none_of_a_subsample(self):
        scaled = [poutine.scale(half, scale=0.3) for half in self.pair(None)]
        found = seeded(pyro_vae.log_weights, *scaled, X, 5, max_plate_nesting=2)
        close(found, seeded(pyro_vae.log_weights, *self.pair(None), X, 5, max_plate_nesting=2))
