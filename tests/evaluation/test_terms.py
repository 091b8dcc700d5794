"""The bounds of each datum: their errors are those of repeated estimates."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_vae.evaluation.terms import terms_of
from pyro_vae.inference.pair import ProgramPair
from tests.support.shifted import Shifted


@pytest.mark.parametrize(("shift", "least", "most"), [(0.1, 0.9, 1.15), (3.0, 0.8, 1.6)], ids=["light", "heavy"])
def test_the_error_of_the_iwae_bound_is_that_of_repeated_estimates(double, shift, least, most):
    """Of 600 data that are the same one; heavy weights have a log variance of 129 here, and k above 0.7."""
    shifted = Shifted.by(shift)
    torch.manual_seed(0)
    values, errors = terms_of(ProgramPair(*shifted.pair).isolated(), shifted.copies(600).double(), 50).iwae
    assert least < errors.square().mean().sqrt() / values.std() < most


def test_the_jackknife_by_hand(double):
    """Two weights: each is left out in turn, and their order plays no part."""
    shifted = Shifted.by(1.0)
    programs = ProgramPair(*shifted.pair).isolated()
    torch.manual_seed(0)
    terms = terms_of(programs, shifted.x, 2)
    (mean, error), (elbo, half) = terms.iwae, terms.elbo  # elbo ± half are the two log weights
    first, second = elbo + half, elbo - half
    bound = torch.logaddexp(first, second) - math.log(2)
    torch.testing.assert_close(mean, bound)
    torch.testing.assert_close(error, ((first - bound).square() + (second - bound).square()).div(2).sqrt())


class TestSitesOfTheGuideAlone:
    """z ~ N(0, 1) and x ~ N(z, 1) for two units."""

    x = torch.tensor([[-1.0, 0.5], [0.3, 2.0], [0.0, 1.0]], dtype=torch.float64)

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def test_the_unconstrained_site_of_an_autoguide_counts_for_its_latent(self, double):
        """Its KL is that of two normal distributions, in closed form."""
        guide = AutoNormal(self.model, init_scale=0.5)
        guide(self.x)
        ((name, (values, errors)),) = terms_of(ProgramPair(self.model, guide).isolated(), self.x, 3000).kl.items()
        q = torch.distributions.Normal(guide.locs.z.detach(), guide.scales.z.detach())
        expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        assert name == "z" and ((values - expected).abs() < 5 * errors).all() and errors.max() < 0.1

    def test_those_of_other_names_are_one_term_with_all_latents(self, double):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                u = pyro.sample("u", dist.Normal(x / 2, 0.5).to_event(1), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Delta(u, event_dim=1))

        ((name, (values, errors)),) = terms_of(ProgramPair(self.model, guide).isolated(), self.x, 3000).kl.items()
        q = torch.distributions.Normal(self.x / 2, 0.5)
        expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        assert name == "z" and ((values - expected).abs() < 5 * errors).all() and errors.max() < 0.1
