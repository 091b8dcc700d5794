"""Gradients by the path: formulas draw by draw, bias and variance, signal and noise as the particles grow."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, anneal_kl
from pyro_vae.objectives.gradients import curvature, slope
from tests.support.chain import chain, gradients
from tests.support.every_objective import BOUNDS, EXTREMES, GRADIENTS
from tests.support.linear_gaussian import PPCA


class TestPaths:
    @pytest.mark.parametrize("name", BOUNDS | EXTREMES)
    def test_reparam_is_the_derivative_with_the_noise_held(self, name):
        """Central differences with common random numbers; of PIWAE the model's half, its guide's is MIWAE's."""
        model, guide, x = chain(6)
        objective = (BOUNDS | EXTREMES)[name](4)
        found = gradients(objective, model, guide, x)
        reference = BOUNDS["MIWAE"](4) if name == "PIWAE" else objective
        for program, bound in ((guide, reference), (model, objective)):
            for parameter_name, parameter in program.named_parameters():
                values = []
                for step in (1e-5, -1e-5):
                    with torch.no_grad():
                        parameter += step
                        torch.manual_seed(3)
                        values.append(bound.bound(model, guide, x))
                        parameter -= step
                difference = (values[0] - values[1]) / 2e-5
                torch.testing.assert_close(found[parameter_name], difference, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    @pytest.mark.parametrize("name", BOUNDS)
    def test_path_estimators_draw_by_draw(self, name, gradient):
        """The formula written out for a chain of two latents, its path weighed once and not once a layer."""
        model, guide, x = chain(6)
        objective = BOUNDS[name](4, gradient=gradient)
        found = gradients(objective, model, guide, x)
        torch.manual_seed(3)
        trace = poutine.trace(pyro.plate("k", 4, dim=-2)(guide)).get_trace(x)
        z1, z2 = (trace.nodes[site]["value"].detach() for site in ("z1", "z2"))
        e1 = (z1 - guide.c * x) / guide.log_s.exp()
        e2 = (z2 - guide.d * z1) / guide.log_t.exp()
        e1, e2 = e1.detach(), e2.detach()
        z1 = guide.c * x + guide.log_s.exp() * e1
        z2 = guide.d * z1 + guide.log_t.exp() * e2

        def log_w(u1, u2):
            c, d, s, t = (p.detach() for p in (guide.c, guide.d, guide.log_s.exp(), guide.log_t.exp()))
            log_p = dist.Normal(0.0, 1.0).log_prob(u2) + dist.Normal(model.a * u2, 0.7).log_prob(u1)
            log_p = log_p + dist.Normal(model.b * u1, 0.5).log_prob(x)
            return log_p - dist.Normal(c * x, s).log_prob(u1) - dist.Normal(d * u1, t).log_prob(u2)

        u1, u2 = z1.detach().requires_grad_(), z2.detach().requires_grad_()
        values = log_w(u1, u2)
        coefficients = slope(objective.reduce_for_guide, values)
        if gradient == "dreg":
            coefficients = coefficients - curvature(objective.reduce_for_guide, values)
        g1, g2 = torch.autograd.grad(values, (u1, u2), coefficients, retain_graph=True)
        by_guide = torch.autograd.grad((z1, z2), list(guide.parameters()), (g1, g2))
        by_model = torch.autograd.grad(values, list(model.parameters()), slope(objective.reduce, values))
        expected = dict(zip([n for n, _ in guide.named_parameters()], by_guide, strict=True))
        expected |= zip([n for n, _ in model.named_parameters()], by_model, strict=True)
        for parameter_name, reference in expected.items():
            torch.testing.assert_close(found[parameter_name], reference, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("name", BOUNDS)
    def test_single_precision_is_enough_for_weights_far_apart(self, name, gradient):
        """Weights that differ by hundreds of nats: of most particles nothing is left, and must not be divided by."""
        found = []
        for dtype in (torch.float32, torch.float64):
            model, guide, x = chain(40)
            with torch.no_grad():
                guide.log_s.fill_(1.5)
                guide.log_t.fill_(1.0)
            torch.manual_seed(3)
            noise = torch.randn(2, 8, 40).double()

            class Noised(dist.Normal):
                def rsample(self, sample_shape=(), noise=noise):
                    return self.loc + self.scale * noise[0 if self.scale[0, 0] > 3 else 1].to(self.loc)

            class NoisedGuide(type(guide)):
                def forward(self, x, normal=Noised):
                    with pyro.plate("data", len(x), dim=-1):
                        z1 = pyro.sample("z1", normal(self.c * x, self.log_s.exp()))
                        pyro.sample("z2", normal(self.d * z1, self.log_t.exp()))

            noised = NoisedGuide(40)
            noised.load_state_dict(guide.state_dict())
            objective = BOUNDS[name](8, gradient=gradient)
            log_w = pyro_vae.log_weights(model, noised, x, 8)
            assert (log_w.max(0).values - log_w.min(0).values).max() > 200
            found.append(gradients(objective, model.to(dtype), noised.to(dtype), x.to(dtype)))
        for parameter, single in found[0].items():
            double = found[1][parameter]
            torch.testing.assert_close(single.double(), double, rtol=2e-3, atol=2e-4 * double.abs().max().item())

    def test_slope_and_curvature_by_their_formulas(self):
        log_w = torch.randn(4, 7, dtype=torch.float64)
        normal = log_w.softmax(0)
        halves = log_w.unflatten(0, (2, 2)).softmax(1).flatten(0, 1)
        powered = (0.5 * log_w).softmax(0)
        expected = {
            "ELBO": (torch.full_like(log_w, 0.25), torch.zeros_like(log_w)),
            "IWAE": (normal, normal - normal**2),
            "MIWAE": (halves / 2, (halves - halves**2) / 2),
            "CIWAE": (0.3 / 4 + 0.7 * normal, 0.7 * (normal - normal**2)),
            "Renyi(0.5)": (powered, 0.5 * (powered - powered**2)),
        }
        for name, (first, second) in expected.items():
            reduce = BOUNDS[name](4).reduce
            torch.testing.assert_close(slope(reduce, log_w), first, rtol=0, atol=1e-12)
            torch.testing.assert_close(curvature(reduce, log_w), second, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_dreg_has_the_mean_of_reparam_and_less_variance(self, name):
        model, guide, x = chain(40_000)
        reparam, dreg = (gradients(BOUNDS[name](8, gradient=g), model, guide, x) for g in ("reparam", "dreg"))
        for parameter in ("c", "d", "log_s", "log_t"):
            difference = reparam[parameter] - dreg[parameter]
            error = (difference.std() / math.sqrt(len(x))).item()
            assert abs(difference.mean().item()) < 4.5 * error  # a false alarm in 150,000 runs
            if name != "Renyi(2)":  # whose largest weights pull it the other way
                assert dreg[parameter].var() < 0.8 * reparam[parameter].var()
        for parameter in ("a", "b"):  # the model's is the same, draw by draw
            torch.testing.assert_close(reparam[parameter], dreg[parameter], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("weight", [0.0, 0.3, 4.0])
    @pytest.mark.parametrize("name", ["IWAE", "PIWAE", "Renyi(0.5)"])
    def test_dreg_has_the_mean_of_reparam_whatever_the_kl_weighs(self, name, weight):
        model, guide, x = chain(40_000)
        pair = anneal_kl(model, guide, weight)
        reparam, dreg = (gradients(BOUNDS[name](4, gradient=g), *pair, x) for g in ("reparam", "dreg"))
        for parameter in ("program.c", "program.d", "program.log_s", "program.log_t"):
            difference = reparam[parameter] - dreg[parameter]
            error = (difference.std() / math.sqrt(len(x))).item()
            assert abs(difference.mean().item()) <= 4.5 * error  # a false alarm in 150,000 runs
            assert error < 0.05

    def test_dreg_has_the_mean_of_reparam_where_latents_are_masked(self):
        """Every other datum has its latents' terms masked, which is a weight of zero; the data are not."""
        model, guide, x = chain(40_000)
        masked = torch.arange(len(x)) % 2 == 0
        halves = poutine.mask(guide, mask=masked)

        def half(x):
            with pyro.plate("data", len(x), dim=-1):
                with poutine.mask(mask=masked):
                    z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
                    z1 = pyro.sample("z1", dist.Normal(model.a * z2, 0.7))
                pyro.sample("x", dist.Normal(model.b * z1, 0.5), obs=x)

        found = []
        for gradient in ("reparam", "dreg"):
            torch.manual_seed(3)
            bound = IWAE(4, gradient=gradient).bound(half, halves, x).sum()
            found.append(torch.autograd.grad(bound, list(guide.parameters())))
        for first, second in zip(*found, strict=True):
            for part in (masked, ~masked):
                difference = (first - second)[part]
                assert abs(difference.mean().item()) <= 4.5 * (difference.std() / math.sqrt(len(difference))).item()

    def test_dreg_refuses_weights_that_differ_from_latent_to_latent(self):
        model, guide, x = chain(5)
        pair = anneal_kl(model, guide, 0.5, sites=["z2"])
        with pytest.raises(ProgramError, match="^site 'z2': found a latent with another weight or mask than 'z1'"):
            IWAE(4, gradient="dreg").bound(*pair, x)
        for gradient in ("reparam", "stl"):
            assert IWAE(4, gradient=gradient).bound(*pair, x).shape == (5,)

    def test_stl_is_unbiased_in_the_elbo_and_biased_in_iwae(self):
        model, guide, x = chain(40_000)
        for name, is_biased in (("ELBO", False), ("IWAE", True)):
            reparam, stl = (gradients(BOUNDS[name](8, gradient=g), model, guide, x) for g in ("reparam", "stl"))
            difference = reparam["c"] - stl["c"]
            error = (difference.std() / math.sqrt(len(x))).item()
            assert (abs(difference.mean().item()) > 20 * error) == is_biased
            if not is_biased:
                assert abs(difference.mean().item()) < 4.5 * error  # a false alarm in 150,000 runs
                assert stl["c"].var() < reparam["c"].var()

    @pytest.mark.parametrize("gradient, expected", [("reparam", -0.5), ("dreg", 0.5)])
    def test_signal_to_noise_as_particles_grow(self, gradient, expected):
        """|mean| / standard deviation of IWAE's guide gradient: as 1/√K by reparam, as √K by dreg."""
        model, guide, x = chain(4000)
        ks = torch.tensor([8.0, 16.0, 32.0, 64.0]).double()
        ratios = []
        for k in ks.long().tolist():
            objective = IWAE(k, gradient=gradient)
            estimates = torch.cat([gradients(objective, model, guide, x, seed)["c"] for seed in range(12)])
            ratios.append((estimates.mean().abs() / estimates.std()).item())
        logs = torch.tensor(ratios).double().log()
        centred = ks.log() - ks.log().mean()
        found = ((centred * logs).sum() / centred.square().sum()).item()
        relative = torch.tensor([1 / (ratio * math.sqrt(len(estimates))) for ratio in ratios]).double()  # of the logs
        error = ((centred * relative).square().sum().sqrt() / centred.square().sum()).item()
        assert abs(found - expected) < 4.5 * error + 0.12  # 0.12 for terms of higher order in 1/K

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    @pytest.mark.parametrize("make", [ELBO, IWAE])
    def test_nothing_is_left_at_the_exact_posterior(self, make, gradient):
        """Each single draw's guide gradient is zero; the ordinary estimator's is not."""
        vae = PPCA.of().vae
        x = PPCA.of().x[:20]
        for estimator, is_zero in ((gradient, True), ("reparam", False)):
            vae.zero_grad()
            make(4, gradient=estimator).differentiable_loss(vae.model, vae.guide, x).backward()
            largest = max(p.grad.abs().max().item() for p in vae.guide.parameters())
            assert (largest < 1e-9) == is_zero
