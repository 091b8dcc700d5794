"""Likelihoods between 0 and 1: a Bernoulli's mass of bits, and the density of grey pixels for every logit."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy import integrate, stats
from torch import nn

from pyro_vae import MLP, Bernoulli, ImageDecoder
from pyro_vae.likelihoods import ContinuousBernoulli
from pyro_vae.likelihoods.binary import GreyBernoulli
from tests.support.programs import IMAGE

pytestmark = pytest.mark.usefixtures("double")


class TestBernoulli:
    def test_it_sums_to_one_over_all_images(self):
        p = Bernoulli(MLP(2, (3,), (4,)), (3,))(torch.randn(5, 2))
        images = torch.tensor(list(product([0.0, 1.0], repeat=3)))  # (8, 3)
        total = torch.stack([p.log_prob(image) for image in images]).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros(5), rtol=0, atol=1e-14)

    def test_it_is_the_formula_also_for_certain_pixels(self):
        class Logits(nn.Module):
            def forward(self, z):
                return torch.tensor([-800.0, 0.5, 800.0]).expand(*z.shape[:-1], 3)

        p = Bernoulli(Logits(), (3,))(torch.zeros(1, 2))
        log_prob = p.log_prob(torch.tensor([0.0, 1.0, 0.0]))
        assert log_prob.item() == pytest.approx(-math.log1p(math.exp(-0.5)) - 800.0, rel=1e-14)

    @pytest.mark.parametrize("hidden_dims", [(), (5,)])
    def test_it_can_start_at_the_mean_pixels(self, hidden_dims):
        part = Bernoulli(MLP(2, IMAGE, hidden_dims), IMAGE)
        mean = torch.linspace(0.0, 1.0, 16).reshape(IMAGE)
        part.start_at_mean(mean)
        # At z = 0 an untrained tanh network gives its output bias alone.
        torch.testing.assert_close(part(torch.zeros(1, 2)).mean[0], mean.clamp(1e-3, 1 - 1e-3), rtol=1e-12, atol=0)
        assert all(parameter.requires_grad for parameter in part.parameters())

    @pytest.mark.parametrize(
        ("network", "mean", "message"),
        [
            (MLP(2, (3,)), torch.zeros(4), r"^mean: found the shape \(4,\), expected \(3,\)"),
            (
                ImageDecoder(2, IMAGE),
                torch.zeros(IMAGE),
                "^network: found 1 as its last bias, expected one value a pixel, 16",
            ),
            (
                nn.Linear(2, 3, bias=False),
                torch.zeros(3),
                "^network: found no bias as its last bias, expected one value",
            ),
        ],
    )
    def test_where_it_cannot(self, network, mean, message):
        part = Bernoulli(network, IMAGE if isinstance(network, ImageDecoder) else (3,))
        before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            part.start_at_mean(mean)
        assert all(torch.equal(before[name], tensor) for name, tensor in part.state_dict().items())


def normaliser(logit):
    """log of the integral of e^(λx) over [0, 1], by quadrature of a function that is at most 1."""
    total, _ = integrate.quad(lambda x: math.exp(logit * x - max(logit, 0.0)), 0, 1, points=[0.01, 0.99], epsabs=1e-14)
    return math.log(total) + max(logit, 0.0)


class TestContinuousBernoulli:
    @pytest.mark.parametrize("logit", [-300.0, -16.0, -0.51, -0.49, -1e-3, 0.0, 1e-9, 0.1, 0.5, 3.0, 40.0, 300.0])
    def test_it_integrates_to_one(self, logit):
        p = GreyBernoulli(torch.tensor(logit))
        x = torch.linspace(0, 1, 11)
        torch.testing.assert_close(p.log_prob(x), logit * x - normaliser(logit), rtol=1e-10, atol=1e-10)

    def test_a_likelihood_is_their_product(self):
        part = ContinuousBernoulli(MLP(2, (3,), (4,)), (3,))
        z, x = torch.randn(5, 2), torch.rand(5, 3)
        logits = part.network(z)
        expected = sum(GreyBernoulli(logits[:, i]).log_prob(x[:, i]) for i in range(3))
        torch.testing.assert_close(part(z).log_prob(x), expected, rtol=1e-12, atol=1e-12)

    def test_it_is_the_bernoulli_divided_by_its_integral(self):
        logits, x = 5 * torch.randn(50), torch.rand(50)
        bernoulli = torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob(x)
        integral = torch.expm1(logits) / (logits * (1 + logits.exp()))
        torch.testing.assert_close(
            GreyBernoulli(logits).log_prob(x), bernoulli - integral.log(), rtol=1e-10, atol=1e-12
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_its_gradient_is_the_distance_from_its_mean(self, dtype):
        # of an exponential family: d log p / dλ = x - E[x]; also where series and closed form meet, and at 0
        sizes = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 200), torch.tensor([0.5 - 1e-9, 0.5, 0.5 + 1e-9])])
        logits = torch.cat([sizes, -sizes]).to(dtype).requires_grad_()
        p = GreyBernoulli(logits)
        for x in (0.0, 0.3, 1.0):
            (gradient,) = torch.autograd.grad(p.log_prob(torch.tensor(x, dtype=dtype)).sum(), logits)
            atol = 1e-12 if dtype == torch.float64 else 1e-6
            torch.testing.assert_close(gradient, x - p.mean.detach(), rtol=0, atol=atol)

    def test_float32_agrees_with_float64(self):
        sizes = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 200)])
        logits = torch.cat([sizes, -sizes])[:, None].float()
        x = torch.tensor([0.0, 1e-3, 0.5, 0.999, 1.0])
        exact = GreyBernoulli(logits.double()).log_prob(x)
        found = GreyBernoulli(logits).log_prob(x.float()).double()
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-3)  # λ (x - x rounded to float32), to 6e-4
        ends = (x == 0) | (x == 1)
        torch.testing.assert_close(found[:, ends], exact[:, ends], rtol=3e-7, atol=5e-7)

    def test_it_is_symmetric(self):
        logits, x = 100 * torch.randn(50), torch.rand(50)
        one, other = GreyBernoulli(logits), GreyBernoulli(-logits)
        torch.testing.assert_close(one.log_prob(x), other.log_prob(1 - x), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one.mean, 1 - other.mean, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("logit", [-300.0, -3.0, -1e-7, 0.0, 0.4, 3.0, 300.0])
    def test_its_mean_and_its_draws(self, logit):
        p = GreyBernoulli(torch.tensor(logit))
        mean, _ = integrate.quad(
            lambda x: x * p.log_prob(torch.tensor(x)).exp().item(), 0, 1, points=[0.01, 0.99], epsabs=1e-13
        )
        assert p.mean.item() == pytest.approx(mean, rel=1e-10)
        size = abs(logit)  # of the distance from the likely end
        cdf = stats.truncexpon(size, scale=1 / size).cdf if size > 1e-6 else stats.uniform.cdf
        draws = p.sample((5_000,)).numpy()
        assert stats.kstest(1 - draws if logit > 0 else draws, cdf).pvalue > 1e-6  # a false alarm in a million seeds
