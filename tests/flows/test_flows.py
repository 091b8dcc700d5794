"""Flows: densities that integrate to one and follow from the Jacobian, drawn and scored in one pass."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from pyro_vae import Flow, FlowPrior
from pyro_vae.flows import flow_distribution
from tests.support.flows import FLOWS, WITHOUT_INVERSE, drawn_from, every_flow, invertible, moved, zuko


def hidden_networks(module, calls):
    """Count the runs of the networks inside a flow."""
    for part in module.modules():
        if isinstance(part, zuko.nn.MaskedMLP):
            part.register_forward_hook(lambda *_: calls.append(1))


@pytest.mark.usefixtures("double")
class TestDensity:
    @every_flow
    def test_it_is_that_of_the_noise_by_the_jacobian(self, name):
        _, q = drawn_from(name)
        noise = q.base.rsample()
        z = q.transform(noise)
        jacobian = torch.autograd.functional.jacobian(lambda e: q.transform(e).sum(0), noise)  # (D, B, D)
        expected = q.base.log_prob(noise) - torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet
        q.base = Fixed(q.base, noise)
        assert torch.equal(q.rsample(), z)
        torch.testing.assert_close(q.log_prob(q._drawn[0]), expected, rtol=1e-10, atol=1e-10)

    @invertible
    def test_it_is_the_same_by_the_inverse(self, name):
        _, q = drawn_from(name)
        z = q.rsample((7,))
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if name == "NAF" else {"rtol": 1e-9, "atol": 1e-9}  # by bisection
        torch.testing.assert_close(q.log_prob(z.clone()), q.log_prob(z), **tolerance)

    @invertible
    @pytest.mark.parametrize("cheap", ["draws", "scores"])
    def test_it_integrates_to_one(self, name, cheap):
        if name == "NAF":
            pytest.skip("its inverse is too slow for a grid")
        torch.manual_seed(0)
        flow = moved(FLOWS[name](2, 4).double())
        p = flow_distribution(flow, torch.randn(1, 4), cheap=cheap)
        z = p.sample((20_000,)).flatten(0, 1)
        low, high = z.amin(0) - 3 * z.std(0), z.amax(0) + 3 * z.std(0)
        steps = torch.linspace(0, 1, 250)
        grid = low + (high - low) * torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
        total = p.log_prob(grid.reshape(-1, 1, 2)).exp().sum() * ((high - low) / 249).prod()
        assert total.item() == pytest.approx(1.0, abs=2e-3)

    @pytest.mark.parametrize("name", ["autoregressive", "spline", "coupling"])
    def test_without_weights_it_is_the_base(self, name):
        flow, _ = drawn_from(name)
        for part in flow.transforms.parameters():
            nn.init.zeros_(part)
        q = flow_distribution(flow, torch.randn(3, 4), cheap="draws")
        z = torch.randn(5, 3, 2)
        torch.testing.assert_close(q.log_prob(z), q.base.log_prob(z), rtol=1e-12, atol=1e-12)

    def test_reflections_leave_the_standard_normal_as_it_is(self):
        p = flow_distribution(Flow("householder", 3).double(), None, cheap="draws")
        z = torch.randn(5, 3)
        torch.testing.assert_close(p.log_prob(z), p.base.log_prob(z), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", WITHOUT_INVERSE)
    def test_none_without_an_inverse_of_what_it_did_not_draw(self, name):
        _, q = drawn_from(name)
        z = q.rsample()
        assert torch.isfinite(q.log_prob(z)).all()
        with pytest.raises(NotImplementedError, match="value: found one .*, expected a draw, as the transform has no"):
            q.log_prob(z.clone())


class Fixed:
    """A base that draws what it is told."""

    def __init__(self, base, noise):
        self.base, self.noise = base, noise

    def rsample(self, sample_shape):
        return self.noise

    def log_prob(self, value):
        return self.base.log_prob(value)


class TestOnePass:
    @pytest.mark.parametrize("name", ["autoregressive", "spline", "coupling"])
    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_a_draw_and_its_density_run_each_network_once(self, name, num_particles):
        flow, q = drawn_from(name)
        calls = []
        hidden_networks(flow, calls)
        q = q.expand((num_particles, 3))
        q.log_prob(q.rsample())
        assert len(calls) == 2  # the two transforms

    def test_a_prior_scores_in_one_pass(self):
        prior = FlowPrior(Flow("autoregressive", 4))
        calls = []
        hidden_networks(prior, calls)
        prior().log_prob(torch.randn(5, 4))
        assert len(calls) == 2
        prior().sample()
        assert len(calls) == 2 + 2 * (4 + 1)  # a draw goes entry by entry

    def test_each_particle_is_drawn_as_if_alone(self):
        _, q = drawn_from("spline")
        torch.manual_seed(1)
        z = q.expand((7, 3)).rsample()  # (K, B, D)
        torch.manual_seed(1)
        noise = q.base.expand((7, 3)).rsample()
        for k in range(7):
            torch.testing.assert_close(z[k], q.transform(noise[k]), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double")
class TestFirstOrder:
    """The density of a draw as a function of z, for transforms without an inverse."""

    @pytest.mark.parametrize("name", ["autoregressive", "coupling", "householder"])
    def test_its_gradient_is_that_by_the_inverse(self, name, monkeypatch):
        _, q = drawn_from(name)
        q = q.expand((7, 3))
        z = q.rsample()
        scored, noise = [z.detach().requires_grad_() for _ in range(2)], q._drawn[2].detach()
        by_inverse = q.log_prob(scored[0])
        scored[1].noise = noise
        monkeypatch.setattr(type(q.transform), "inv", property(without))
        to_first_order = q.log_prob(scored[1])
        torch.testing.assert_close(to_first_order, by_inverse, rtol=1e-9, atol=1e-9)
        gradients = [
            torch.autograd.grad(p.sum(), x)[0] for p, x in zip((by_inverse, to_first_order), scored, strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-8)

    @pytest.mark.parametrize("name", WITHOUT_INVERSE)
    def test_a_draw_that_is_handed_on_has_a_density(self, name):
        _, q = drawn_from(name)
        z = q.rsample()
        torch.testing.assert_close(q.log_prob(q.hand_on(z)), q.log_prob(z), rtol=1e-12, atol=1e-12)
        with pytest.raises(NotImplementedError):
            q.log_prob(q.hand_on(z.clone()))


def without(transform):
    raise KeyError("no inverse")


class TestNothingStays:
    @every_flow
    def test_a_draw_dies_with_its_distribution(self, name):
        flow = FLOWS[name](2, 4)
        q = flow_distribution(flow, torch.randn(3, 4), cheap="draws")
        z = q.rsample()
        q.log_prob(z).sum().backward()
        gone = weakref.ref(z)
        del z, q
        gc.collect()
        assert gone() is None
        copy.deepcopy(flow)  # which torch refuses for what holds a graph
