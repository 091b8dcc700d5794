"""Programs with their global latents held at the guide's means: the likelihood of a datum given these."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.easyguide import easy_guide
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from pyro_vae import ProgramError, at_global_means, diagnose, log_likelihood, log_weights
from tests.support.global_latents import X, pair


class TestAtGlobalMeans:
    def test_the_likelihood_given_the_mean(self):
        """N(x; m, 2) of each datum, with the guide of z off by its shift."""
        model, guide = pair()
        exact = dist.Normal(guide.loc, 2**0.5).log_prob(X).detach()
        estimate = log_likelihood(*at_global_means(model, guide), X, 4000, seed=0)
        assert ((estimate.values - exact).abs() < 5 * estimate.std_error).all() and estimate.std_error.max() < 0.03
        weights = log_weights(*at_global_means(*pair(shift=0.0)), X, 3)
        torch.testing.assert_close(weights, exact.expand(3, -1).to(weights), rtol=0, atol=1e-12)
        assert diagnose(*at_global_means(model, guide), X, num_data_mi=3).kl.keys() == {"z"}

    def test_an_easy_guide(self):
        """It opens the plates of the model without their sizes."""

        def model(x):
            with pyro.plate("weights", 2):
                w = pyro.sample("w1", dist.Normal(x.new_zeros(2), 1.0))
            w2 = pyro.sample("w2", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w.sum(-1) + w2, 1.0), obs=x)

        @easy_guide(model)
        def guide(self, x):
            self.group(match="w").sample("group", dist.Normal(x.new_tensor([0.5, 0.2, -0.3]), 0.1).to_event(1))

        weights = log_weights(*at_global_means(model, guide), X, 2)
        torch.testing.assert_close(
            weights, dist.Normal(X.new_tensor(0.4), 1.0).log_prob(X).expand(2, -1), rtol=0, atol=1e-12
        )

    def test_as_many_members_of_another_plate_as_data(self):
        """A plate that is opened before that of the data, which is called so."""

        def model(x):
            with pyro.plate("weights", len(X)):
                w = pyro.sample("w", dist.Normal(x.new_zeros(len(X)), 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w.sum(-1, keepdim=True), 1.0), obs=x)

        def guide(x):
            with pyro.plate("weights", len(X)):
                pyro.sample("w", dist.Normal(x.new_full((len(X),), 0.1), 0.3))

        expected = dist.Normal(X.new_tensor(0.6), 1.0).log_prob(X)
        for x in (X, X[:4]):
            found = log_weights(*at_global_means(model, guide), x, 2)
            torch.testing.assert_close(found, expected[: len(x)].expand(2, -1), rtol=0, atol=1e-12)

    def test_without_it_there_is_no_likelihood_of_a_datum(self):
        for run in (log_weights, log_likelihood, diagnose):
            with pytest.raises(
                ProgramError, match=r"^site 'w': found outside the data plate, .*at_global_means\(model, guide\)"
            ):
                run(*pair(), X)

    @pytest.mark.parametrize("guide_of", [AutoNormal, AutoMultivariateNormal])
    def test_a_bounded_latent_of_an_auto_guide_is_said_to_be_at_its_median(self, guide_of):
        def model(x):
            w = pyro.sample("w", dist.LogNormal(x.new_zeros(()), 1.0))
            v = pyro.sample("v", dist.Normal(x.new_zeros(()), 1.0))  # without bounds: held at its mean
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w + v, 1.0), obs=x)

        x = torch.tensor([1.0, 2.0, 0.0])
        guide = guide_of(model, init_scale=1.0)
        guide(x)
        pair = at_global_means(model, guide)
        with pytest.warns(UserWarning, match="^site 'w': found a latent that its guide makes of another one") as said:
            found = log_weights(*pair, x, 2)
        assert len(said) == 1
        median = guide.median(x)
        expected = dist.Normal(median["w"] + median["v"], 1.0).log_prob(x).detach().expand(2, -1)
        torch.testing.assert_close(found, expected)

    def test_a_distribution_without_a_mean(self):
        def model(x):
            w = pyro.sample("w", dist.Stable(1.5, x.new_zeros(())))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

        def guide(x):
            pyro.sample("w", Meanless(x.new_zeros(()), 1.0))

        with pytest.raises(ProgramError, match="^site 'w': found .*, whose mean is not known"):
            log_weights(*at_global_means(model, guide), X)


class Meanless(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError
