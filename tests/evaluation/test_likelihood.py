"""Gradients of latents without a path: exact means over all draws, baselines, what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import ELBO, IWAE, ProgramError
from pyro_vae.objectives.gradients import learning_signal
from tests.support.chain import gradients
from tests.support.discrete import Discrete
from tests.support.every_objective import BOUNDS, EXTREMES


class TestDiscreteLatents:
    @pytest.mark.parametrize("num_particles", [2, 4])
    @pytest.mark.parametrize("name", BOUNDS | EXTREMES)
    def test_the_mean_over_all_draws_is_the_gradient_of_the_mean(self, name, num_particles):
        """No Monte Carlo: every tuple of draws is a datum. VIMCO, leave-one-out and their kin have no bias at all."""
        discrete = Discrete(num_particles)
        objective = (BOUNDS | EXTREMES)[name](num_particles)
        found = gradients(objective, discrete.model, discrete.guide, discrete.x)
        by_guide, _, _ = discrete.exact_mean(objective.reduce_for_guide)
        _, by_prior, by_means = discrete.exact_mean(objective.reduce)
        for name_, expected in (("logits", by_guide), ("prior_logits", by_prior), ("means", by_means)):
            mean = (discrete.probability[:, None] * found[name_]).sum(0)
            torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
            assert expected.abs().max() > 1e-3

    def test_one_particle_has_the_score_function_without_a_baseline(self):
        discrete = Discrete(1)
        for objective in (ELBO(), IWAE(1)):
            found = gradients(objective, discrete.model, discrete.guide, discrete.x)
            mean = (discrete.probability[:, None] * found["logits"]).sum(0)
            torch.testing.assert_close(mean, discrete.exact_mean(lambda log_w: log_w.mean(0))[0], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", ["ELBO", "IWAE"])
    def test_the_baseline_lowers_the_variance(self, name):
        """The variance of both estimators, exactly: with signals f - f without k (VIMCO), and with f for all."""
        discrete = Discrete(4)
        objective = BOUNDS[name](4)
        found = gradients(objective, discrete.model, discrete.guide, discrete.x)["logits"]
        index = torch.tensor(discrete.tuples).T
        log_w = torch.tensor(discrete.w).log()[index]
        score = nn.functional.one_hot(index, 3) - torch.tensor(discrete.q)  # (K, B, 3), the gradient of log q
        without = found + ((objective.reduce(log_w) - learning_signal(objective.reduce, log_w))[..., None] * score).sum(
            0
        )
        variances = []
        for estimate in (found, without):
            mean = (discrete.probability[:, None] * estimate).sum(0)
            variances.append((discrete.probability[:, None] * (estimate - mean).square()).sum().item())
        torch.testing.assert_close(mean, discrete.exact_mean(objective.reduce)[0], rtol=0, atol=1e-12)  # unbiased too
        assert variances[0] < 0.5 * variances[1]  # measured: 0.1 (ELBO) and 0.05 (IWAE)

    def test_leave_one_out_and_vimco_by_their_formulas(self):
        log_w = torch.randn(5, 3, dtype=torch.float64)
        signal = learning_signal(ELBO(5).reduce, log_w)
        for k in range(5):
            others = torch.cat([log_w[:k], log_w[k + 1 :]])
            torch.testing.assert_close(signal[k], (log_w[k] - others.mean(0)) / 5)
            substituted = torch.cat([others, others.mean(0, keepdim=True)]).exp().mean(0).log()
            vimco = log_w.exp().mean(0).log() - substituted
            torch.testing.assert_close(learning_signal(IWAE(5).reduce, log_w)[k], vimco)

    def test_a_masked_latent_is_learnt_still(self):
        """Its terms count nothing, but the decoder sees it."""
        discrete = Discrete(2)
        masked = pyro.poutine.mask(discrete.guide, mask=torch.tensor(False))

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                with pyro.poutine.mask(mask=torch.tensor(False)):
                    z = pyro.sample("z", dist.Categorical(logits=discrete.model.prior_logits))
                mean = discrete.model.means.expand(*z.shape, 3).gather(-1, z[..., None])[..., 0]
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

        logits = discrete.guide.logits
        found = torch.autograd.grad(ELBO(2).bound(model, masked, discrete.x).sum(), logits)[0]
        mean = (discrete.probability[:, None] * found).sum(0)
        q = logits[0].detach().requires_grad_()
        log_p = dist.Normal(discrete.model.means[0].detach(), 1.0).log_prob(discrete.x[0])
        expected = torch.autograd.grad((q.softmax(-1) * log_p).sum(), q)[0]
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", ["IWAE", "MIWAE", "PIWAE", "Renyi(0.5)"])
    def test_an_impossible_draw_leaves_the_others_finite(self, name):
        """A state of probability zero has log w = -inf: the bound is finite still, and so is its gradient."""
        discrete = Discrete(4)
        with torch.no_grad():
            discrete.model.prior_logits[:, 1] = -math.inf
        objective = BOUNDS[name](4)
        index = torch.tensor(discrete.tuples).T
        halves = (index[:2] == 1).all(0) | (index[2:] == 1).all(0) if name == "MIWAE" else (index == 1).all(0)
        bound = objective.bound(discrete.model, discrete.guide, discrete.x)
        assert torch.equal(bound > -math.inf, ~halves)
        logits = discrete.guide.logits
        if name == "PIWAE":  # whose guide is MIWAE's
            halves = (index[:2] == 1).all(0) | (index[2:] == 1).all(0)
        found = torch.autograd.grad(bound[~halves].sum(), logits)[0]
        assert torch.isfinite(found[~halves]).all()

    def test_the_baseline_is_of_the_possible_others(self):
        log_w = torch.tensor([[0.5], [-math.inf], [1.5]]).double()
        signal = learning_signal(IWAE(3).reduce, log_w)
        bound = IWAE(3).reduce(log_w)
        for k, replaced in enumerate(([1.5, -math.inf, 1.5], [0.5, 1.0, 1.5], [0.5, -math.inf, 0.5])):
            expected = bound - IWAE(3).reduce(torch.tensor(replaced).double()[:, None])
            torch.testing.assert_close(signal[k], expected)
        alone = torch.tensor([[0.5], [-math.inf]]).double()  # no other that says anything: no baseline
        torch.testing.assert_close(learning_signal(IWAE(2).reduce, alone)[0], IWAE(2).reduce(alone))

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    def test_an_estimator_by_the_path_alone_refuses_and_names_the_site(self, gradient):
        discrete = Discrete(2)
        with pytest.raises(ProgramError, match=f"site 'z': found a latent that cannot .*gradient='{gradient}'"):
            IWAE(2, gradient=gradient).bound(discrete.model, discrete.guide, discrete.x)
        with torch.no_grad():  # there is no gradient to be wrong
            assert IWAE(2, gradient=gradient).bound(discrete.model, discrete.guide, discrete.x).shape == (9,)

    def test_a_mixture_of_kinds(self):
        """y without a path, then z given y with one: the ELBO's gradient against the sum over y."""
        n = 60_000
        logit = nn.Parameter(torch.full((n,), 0.4).double())
        shift = nn.Parameter(torch.full((n,), 0.3).double())

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.3)))
                z = pyro.sample("z", dist.Normal(y, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(logits=logit))
                pyro.sample("z", dist.Normal(0.5 * x + shift * y, 0.6))

        x = torch.full((n,), 0.7).double()
        found = torch.autograd.grad(ELBO(2).bound(model, guide, x).sum(), (logit, shift))
        q, total = torch.sigmoid(logit), 0
        for y, weight in ((1.0, q), (0.0, 1 - q)):
            loc = 0.5 * x + shift * y  # given y, all is Gaussian
            given = -0.5 * ((loc - y) ** 2 + 0.36) - 0.5 * ((x - loc) ** 2 + 0.36) / 0.25
            prior = 0.3 if y else 0.7
            total = total + weight * (given + math.log(prior) - weight.log())
        expected = torch.autograd.grad(total.sum(), (logit, shift))
        for estimate, exact in zip(found, expected, strict=True):
            error = (estimate.std() / math.sqrt(n)).item()
            assert abs(estimate.mean() - exact[0]) < 4.5 * error  # a false alarm in 150,000 runs
