"""Programs whose weights would not be those of log p(x) of each datum are refused, and trained by the ELBO."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, ReweightedWakeSleep
from tests.support.global_latents import close, seeded
from tests.support.programs import bits
from tests.support.vq_vaes import make

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


class TestPointMasses:
    """x ~ N(z, 1), with a single value in the place of the posterior of z."""

    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    @staticmethod
    def guide_of(make):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", make(x))

        return guide

    @pytest.mark.parametrize(
        "make",
        [
            lambda x: dist.Delta(x / 2),
            lambda x: dist.Delta(x / 2).mask(torch.tensor(True)),
            lambda x: dist.Delta(x.new_zeros(())).expand(x.shape),
        ],
    )
    @pytest.mark.parametrize("run", [pyro_vae.log_weights, pyro_vae.log_likelihood, pyro_vae.diagnose])
    def test_they_tell_nothing_of_log_p(self, run, make):
        with pytest.raises(ProgramError, match="^site 'z': found the point mass .* expected a distribution with a den"):
            run(self.model, self.guide_of(make), self.x)

    def test_those_of_an_autoguide(self):
        guide = AutoDelta(self.model)
        guide(self.x)
        with pytest.raises(ProgramError, match="^site 'z': found the point mass Delta"):
            pyro_vae.log_likelihood(self.model, guide, self.x, 10)

    def test_the_elbo_trains_them(self):
        """It is log p(x, z), so the best value is the mode x / 2."""
        guide = self.guide_of(lambda x: dist.Delta(pyro.param("slope", torch.tensor(0.0)) * x))
        pyro_vae.fit(self.model, guide, self.x, num_epochs=200, batch_size=3, lr=0.02, seed=0, progress=False)
        assert pyro.param("slope").item() == pytest.approx(0.5, abs=1e-3)

    def test_values_that_auxiliary_draws_make_have_a_density(self):
        guide = AutoNormal(self.model)
        guide(self.x)
        assert pyro_vae.log_weights(self.model, guide, self.x, 2).shape == (2, 3)

    def test_those_that_bring_their_density_are_draws(self):
        def given(x):
            q = dist.Normal(x / 2, 0.5**0.5)
            z = q.sample()
            return dist.Delta(z, log_density=q.log_prob(z))

        found = pyro_vae.log_weights(self.model, self.guide_of(given), self.x, vectorize_particles=False)
        close(found[0], dist.Normal(0.0, 2**0.5).log_prob(self.x))

    def test_those_of_codes_are_draws(self):
        program = make().double()
        assert pyro_vae.log_weights(program.model, program.guide, bits(3).double(), 2).shape == (2, 3)

    def test_those_of_discrete_latents_are_exact(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Bernoulli(x.new_tensor(1.0)))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        found = pyro_vae.log_weights(model, self.guide_of(lambda x: dist.Delta(torch.ones_like(x))), self.x)
        close(found[0], dist.Normal(1.0, 1.0).log_prob(self.x))
