"""Annealed bounds, their gradients and the true bound beside them, against the terms of the bare pair."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import ELBO, IWAE, anneal_kl
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.kl import analytic_kl
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.schedules import Linear
from tests.support.discrete import Discrete
from tests.support.programs import HierarchyGuide, HierarchyModel, bits, seeded, vae

pytestmark = pytest.mark.usefixtures("double")
CLOSE = {"rtol": 0, "atol": 1e-11}


@pytest.fixture
def pair():
    program = vae()
    return program.model, program.guide


@pytest.fixture
def x():
    return bits(6).double()


class TestAnnealed:
    @pytest.mark.parametrize("weight", [0.0, 0.4, 3.0])
    @pytest.mark.parametrize("objective", [ELBO(4), ELBO(4, kl="analytic"), IWAE(4)], ids=repr)
    def test_every_kind_of_bound(self, objective, weight, pair, x):
        trace = seeded(trace_pair, ProgramPair(*pair), x, 4)
        log_p_x, ratio = trace.terms()["x"], trace.terms()["z"]
        if isinstance(objective, IWAE):
            expected = (log_p_x + weight * ratio).logsumexp(0) - math.log(4)
        elif objective.kl == "sample":
            expected = (log_p_x + weight * ratio).mean(0)
        else:
            expected = log_p_x.mean(0) - weight * analytic_kl(trace, "z").sum(-1)[0]
        annealed = anneal_kl(*pair, weight)
        torch.testing.assert_close(seeded(objective.bound, *annealed, x), expected, **CLOSE)
        estimate = seeded(objective.estimate, *annealed, x)
        torch.testing.assert_close(estimate.true_bound, seeded(objective.bound, *pair, x), rtol=0, atol=0)

        # A scale of the whole program multiplies the loss alone, whether it stands outside or inside of the annealing.
        outside = [poutine.scale(program, scale=0.2) for program in annealed]
        inside = anneal_kl(*(poutine.scale(program, scale=0.2) for program in pair), weight)
        for scaled in (outside, inside):
            estimate = seeded(objective.estimate, *scaled, x)
            torch.testing.assert_close(estimate.bound, expected, **CLOSE)
            torch.testing.assert_close(estimate.loss, -0.2 * expected.sum(), **CLOSE)

    @pytest.mark.parametrize("objective", [ELBO(4), ELBO(4, kl="analytic"), IWAE(4)], ids=repr)
    def test_a_subsampling_plate_scales_the_loss_alone(self, objective, x):
        def model(x):
            with pyro.plate("data", size=1000, subsample_size=len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 0.7), obs=x)

        def guide(x):
            with pyro.plate("data", size=1000, subsample_size=len(x), dim=-1):
                pyro.sample("z", dist.Normal(0.4 * x, 0.6))

        x = x.flatten(1)[:, 0]
        trace = seeded(trace_pair, ProgramPair(model, guide), x, 4)
        terms = dict(trace.terms())
        if objective.arguments():  # kl="analytic"
            terms["z"] = -analytic_kl(trace, "z").sum(-1)
        expected = objective.reduce(terms["x"] + 0.3 * terms["z"])
        estimate = seeded(objective.estimate, *anneal_kl(model, guide, 0.3), x)
        torch.testing.assert_close(estimate.bound, expected, **CLOSE)
        torch.testing.assert_close(estimate.true_bound, objective.reduce(terms["x"] + terms["z"]), **CLOSE)
        torch.testing.assert_close(estimate.loss, -1000 / len(x) * expected.sum(), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("objective", [ELBO(3), ELBO(3, kl="analytic"), IWAE(3)], ids=repr)
    def test_the_gradient_is_that_of_the_annealed_bound(self, objective, pair, x):
        """Against finite differences along one direction, with common random numbers."""
        annealed = anneal_kl(*pair, 0.3)
        parameters = [parameter for module in pair for parameter in module.parameters()]
        direction = [torch.randn_like(parameter) for parameter in parameters]
        gradient = torch.autograd.grad(seeded(objective.differentiable_loss, *annealed, x), parameters)
        slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        losses = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):  # to one side, and from there to the other
                for parameter, d in zip(parameters, direction, strict=True):
                    parameter.add_(step * d)
                losses.append(seeded(objective.loss, *annealed, x))
        assert slope.item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)  # h^2 and rounding / h: 1e-8

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    @pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
    def test_other_gradients_have_the_same_bound(self, gradient, weight, x):
        pair = HierarchyModel(), HierarchyGuide()
        for kind in (weight, Linear(1, start=weight)):
            annealed = anneal_kl(*pair, kind)
            for make in (ELBO, IWAE):
                bound = seeded(make(3).bound, *annealed, x)
                other = seeded(make(3, gradient=gradient).bound, *annealed, x)
                torch.testing.assert_close(other, bound, **CLOSE)

    @pytest.mark.parametrize("num_particles", [1, 2])
    def test_the_score_gradient_of_a_discrete_latent_is_unbiased(self, num_particles):
        """Its mean over all draws, against the annealed bound's gradient by enumeration."""
        case, weight = Discrete(num_particles), 0.3
        bound = ELBO(num_particles).bound(*anneal_kl(case.model, case.guide, weight), case.x)
        parameters = case.guide.logits, case.model.prior_logits, case.model.means
        found = torch.autograd.grad((case.probability * bound).sum(), parameters)
        logits, prior, means = leaves = [p[0].detach().clone().requires_grad_() for p in parameters]
        log_q = logits.log_softmax(-1)
        terms = dist.Normal(means, 1.0).log_prob(case.x[0]) + weight * (prior.log_softmax(-1) - log_q)
        expected = torch.autograd.grad((log_q.exp() * terms).sum(), leaves)
        for gradient, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient.sum(0), reference, **CLOSE)
