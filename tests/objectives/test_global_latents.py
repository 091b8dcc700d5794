"""Bounds of programs with latents of all data at once: held to closed forms, to Pyro and to sums by hand."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    ProgramError,
    RenyiBound,
    ReweightedWakeSleep,
    WakeSleep,
    anneal_kl,
)
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from tests.support.global_latents import X, close, exact_elbo, pair, seeded

WAYS = [True, "repeat", False]
BOUNDS = [ELBO, IWAE, lambda *a, **o: RenyiBound(0.5, *a, **o), lambda *a, **o: CIWAE(0.3, *a, **o)]


class TestElbo:
    @pytest.mark.parametrize("size", [None, 60])
    @pytest.mark.parametrize("num_particles", [1, 4])
    def test_the_loss_and_its_gradient_are_pyros(self, size, num_particles):
        model, guide = pair(size)
        parameters = list(guide.parameters())
        pyros = Trace_ELBO(num_particles, vectorize_particles=True, max_plate_nesting=1)
        loss = seeded(ELBO(num_particles).differentiable_loss, model, guide, X)
        expected = seeded(pyros.differentiable_loss, isolated(model), isolated(guide), X)
        close(loss, expected)
        for found, gradient in zip(
            torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
        ):
            close(found, gradient)

    @pytest.mark.parametrize("size", [None, 60])
    def test_with_the_kl_in_closed_form(self, size):
        """Given W, the term of z has a mean that depends on W: what is left is the draw of W, as in Pyro."""
        model, guide = pair(size)
        loss = seeded(ELBO(kl="analytic").differentiable_loss, model, guide, X)
        close(loss, seeded(TraceMeanField_ELBO().differentiable_loss, isolated(model), isolated(guide), X))

    @pytest.mark.parametrize("size", [None, 60])
    def test_the_mean_is_the_closed_form_and_each_datum_has_its_share(self, size):
        """Over 200,000 draws, within 5 of their standard errors: a chance of 6e-7."""
        model, guide = pair(size)
        with torch.no_grad():
            objective = ELBO(200_000)
            traced, _ = seeded(objective._trace, model, guide, X)
            g, log_w = sum(objective.global_terms(traced, True).values()), objective.log_weights(traced, True)
            totals = g + traced.common_scale * log_w.sum(1)
            error = totals.std() / len(totals) ** 0.5
            estimate = seeded(objective.estimate, model, guide, X)
        assert (totals.mean() - exact_elbo(guide, X, size or len(X))).abs() < 5 * error < 0.2
        close(-estimate.loss, totals.mean())
        close(estimate.global_term, g.mean() / (size or len(X)))
        close(estimate.bound, log_w.mean(0) + estimate.global_term)
        close(estimate.bound.mean(), -estimate.loss / (size or len(X)))

    @pytest.mark.parametrize("weight", [0.0, 0.3])
    def test_annealing_weighs_the_global_term_in_the_loss_alone(self, weight):
        model, guide = pair(60)
        for beta in (weight, torch.tensor(weight, dtype=torch.float64)):
            annealed = seeded(ELBO(3).estimate, *anneal_kl(model, guide, beta), X)
            plain = seeded(ELBO(3).estimate, model, guide, X)
            close(annealed.true_bound, plain.bound)
            close(annealed.global_term, plain.global_term)
            traced = seeded(trace_pair, ProgramPair(*pair(60)), X, 3, each_datum=False)
            terms, scale = traced.terms(), traced.common_scale
            g = sum(ELBO(3).global_terms(traced, False).values())
            close(annealed.loss, -(scale * (terms["x"] + weight * terms["z"]).sum(1) + weight * g).mean())


class TestOtherBounds:
    @pytest.mark.parametrize("make", BOUNDS)
    @pytest.mark.parametrize("way", WAYS)
    def test_particles_share_one_draw(self, make, way):
        """So the bound is the reduction of weights given that draw, plus its term once; of a subsample as of all."""
        model, guide = pair(60)
        objective = make(4, vectorize_particles=way)
        torch.manual_seed(1)
        traced, _ = objective._trace(model, guide, X)
        draws = [part.guide_sites["w"]["value"] for part in traced.parts]
        terms = objective.global_terms(traced, True)["w"]
        if objective.is_linear and way != "repeat":
            assert len(torch.stack(draws).unique()) == len(terms) == 4
            return
        assert len(torch.stack(draws).unique()) == len(terms) == 1
        z = torch.stack([part.guide_sites["z"]["value"] for part in traced.parts]).reshape(4, -1)
        w = draws[0]
        log_p = dist.Normal(w, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)
        log_w = log_p - dist.Normal((X + w) / 2 + guide.shift, 0.5**0.5).log_prob(z)
        log_w = log_w.detach()
        g = (dist.Normal(0.0, 1.0).log_prob(w) - dist.Normal(guide.loc, guide.log_scale.exp()).log_prob(w)).detach()
        torch.manual_seed(1)
        estimate = objective.estimate(model, guide, X)
        close(estimate.loss.detach(), -(10 * objective.reduce(log_w).sum() + g))
        close(estimate.bound.detach(), objective.reduce(log_w) + g / 60)

    @pytest.mark.cross
    def test_iwae_tightens_what_is_local_and_stays_below_the_evidence(self):
        """log p(x) is that of a Gaussian; the means over draws of W, within 5 standard errors of the order."""
        model, guide = pair()
        covariance = 2 * torch.eye(len(X)) + 1.0
        evidence = torch.distributions.MultivariateNormal(torch.zeros(len(X)), covariance).log_prob(X)
        means = []
        for k, num_draws in ((1, 2000), (5, 500), (50, 2000)):
            torch.manual_seed(0)
            with torch.no_grad():
                totals = torch.stack([-IWAE(k).estimate(model, guide, X).loss for _ in range(num_draws)])
            means.append((totals.mean(), totals.std() / num_draws**0.5))
        (elbo, error), (five, _), (fifty, last) = means
        assert (elbo - exact_elbo(guide, X, len(X))).abs() < 5 * error
        assert elbo + 5 * error < five < fifty < evidence + 5 * last
        # with z's posterior in place of them all, what is left is the KL of W
        limit = exact_elbo(pair(shift=0.0)[1], X, len(X))
        assert (fifty - limit).abs() < 5 * last + 0.05

    def test_gradients_reach_both_kinds_of_latents(self):
        model, guide = pair(60)
        loss = MIWAE(2, 3).differentiable_loss(model, guide, X)
        assert all(gradient.abs() > 1e-4 for gradient in torch.autograd.grad(loss, list(guide.parameters())))

    @pytest.mark.parametrize("objective", [PIWAE(2, 3), IWAE(3, gradient="dreg")], ids=repr)
    def test_estimators_that_weigh_the_path_of_z_alone(self, objective):
        """They would count what W does to q(z | x, W) twice. The ELBO's, whose weights are equal, are taken."""
        with pytest.raises(ProgramError, match="^site 'w': found outside the data plate with (PIWAE|IWAE)"):
            objective.differentiable_loss(*pair(), X)
        for gradient in ("stl", "dreg"):
            ELBO(2, gradient=gradient).differentiable_loss(*pair(), X)

    @pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.cross), 3])
    def test_the_gradient_of_iwae_by_finite_differences(self, k):
        """Of its mean over 4,000 fixed draws of noise, by m and by d."""
        noise = torch.randn(4000, 1 + k * len(X), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def mean_bound(loc, shift):
            w = loc + 0.6 * noise[:, :1]
            z = (X + w)[:, None] / 2 + shift + 0.5**0.5 * noise[:, 1:].unflatten(1, (k, -1))
            log_p = dist.Normal(w[:, None], 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)
            log_w = log_p - dist.Normal((X + w)[:, None] / 2 + shift, 0.5**0.5).log_prob(z)
            g = dist.Normal(0.0, 1.0).log_prob(w) - dist.Normal(loc, 0.6).log_prob(w)
            return ((log_w.logsumexp(1) - math.log(k)).sum(1) + g[:, 0]).mean()

        point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.3, 0.4)]
        exact = torch.autograd.grad(mean_bound(*point), point)
        model, guide = pair()
        with torch.no_grad():
            guide.log_scale.fill_(math.log(0.6))
        torch.manual_seed(0)
        found = torch.stack(
            [
                torch.stack(
                    torch.autograd.grad(-IWAE(k).differentiable_loss(model, guide, X), [guide.loc, guide.shift])
                )
                for _ in range(1500)
            ]
        )
        error = found.std(0) / len(found) ** 0.5  # and that of the 4,000 draws above; 5 of both: a chance of 6e-7
        assert ((found.mean(0) - torch.stack(exact)).abs() < 5 * 1.3 * error).all()

    @pytest.mark.parametrize("make", [lambda: WakeSleep(3), lambda: ReweightedWakeSleep(3, guide_phase="wake")])
    def test_wake_sleep_takes_joint_weights_of_all_data_and_no_subsample(self, make):
        objective = make()
        model, guide = pair()
        if isinstance(objective, ReweightedWakeSleep):
            traced = seeded(trace_pair, ProgramPair(model, guide), X, 3, each_datum=False)
            joint = sum(traced.terms().values()).sum(1) + sum(ELBO(3).global_terms(traced, False).values())
            estimate = seeded(objective.estimate, model, guide, X)
            close(-estimate.loss, joint.logsumexp(0) - math.log(3))
            close(estimate.bound, (joint.logsumexp(0) - math.log(3)).expand(len(X)) / len(X))
        with pytest.raises(ProgramError, match="^site 'w': found outside the data plate, which holds 6 of 60 data"):
            objective.estimate(*pair(60), X)

    def test_a_global_observation_of_local_latents_is_no_term_that_particles_share(self):
        """The ELBO takes it, as Pyro's does."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("total", dist.Normal(z.sum(-1), 1.0), obs=x.sum())

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 0.7))

        for objective in (IWAE(3, vectorize_particles=False), RenyiBound(0.5, 3, vectorize_particles=False)):
            with pytest.raises(ProgramError, match="^site 'total': found outside the data plate, with log-probabil"):
                objective.bound(model, guide, X)
        elbos = ELBO(3, vectorize_particles=False), Trace_ELBO(3)
        close(*(seeded(each.differentiable_loss, model, guide, X) for each in elbos))


class TestScores:
    """Draws without a path: against finite sums over all values, or over many draws."""

    @pytest.mark.parametrize("size", [None, 20])
    def test_a_discrete_global_latent(self, size):
        """E[gradient] over its two values is exact; 20,000 draws, 5 standard errors: a chance of 6e-7."""
        logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

        def model(x):
            w = pyro.sample("w", dist.Bernoulli(x.new_tensor(0.4)))
            with pyro.plate("data", size or len(x), subsample_size=len(x)):
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

        def guide(x):
            pyro.sample("w", dist.Bernoulli(logits=logit))

        q, scale = torch.sigmoid(logit), (size or len(X)) / len(X)
        totals = [
            scale * dist.Normal(w, 1.0).log_prob(X).sum() + dist.Bernoulli(0.4).log_prob(torch.tensor(w))
            for w in (0.0, 1.0)
        ]
        exact = (1 - q) * (totals[0] - (1 - q).log()) + q * (totals[1] - q.log())
        (expected,) = torch.autograd.grad(-exact, logit)
        found = []
        torch.manual_seed(0)
        for _ in range(200):
            (gradient,) = torch.autograd.grad(ELBO(100).differentiable_loss(model, guide, X), logit)
            found.append(gradient)
        found = torch.stack(found)
        assert (found.mean() - expected).abs() < 5 * found.std() / len(found) ** 0.5 < 0.2 * expected.abs()


class TestSvi:
    def test_svi_finds_the_posterior(self):
        """Of W given six data, N(Σ x / (2 + 6), 2 / (2 + 6)), by the ELBO and by IWAE."""
        for objective in (ELBO(5), IWAE(5)):
            pyro.clear_param_store()
            model, guide = pair(shift=0.0)
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=objective)
            torch.manual_seed(0)
            for _ in range(400):
                svi.step(X)
            close(guide.loc.detach(), X.sum() / 8, 0.1)
            close(guide.log_scale.detach().exp(), torch.tensor(0.5, dtype=torch.float64), 0.08)
