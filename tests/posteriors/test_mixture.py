"""A mixture as posterior: its density, draws and gradients."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import MixturePosterior
from pyro_vae.nn.scales import bounded_scale
from tests.support.given import Given


class TestMixturePosterior:
    def test_it_is_the_formula(self, double):
        output = torch.randn(5, 3, 1 + 2 * 2)
        q = MixturePosterior(Given(output), latent_dim=2)(torch.zeros(5, 4))
        z = torch.randn(5, 2)
        components = dist.Normal(output[..., 1:3], bounded_scale(output[..., 3:], 1e-3, 1e3)).to_event(1)
        log_weights = output[..., 0].log_softmax(-1)
        expected = (log_weights + components.log_prob(z[:, None])).logsumexp(-1)
        torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-11, atol=0)
        torch.testing.assert_close(q.mean, (log_weights.exp()[..., None] * output[..., 1:3]).sum(1))

    def test_the_gradient_of_a_draw_where_all_components_are_the_same(self, double):
        """It is one Gaussian: a component moves by its share of the gradient, and no weight matters."""
        output = torch.cat([torch.randn(4, 3, 1), torch.tensor([0.3, -20.0, 0.5, 2.0]).expand(4, 3, 4)], -1)
        posterior = MixturePosterior(Given(output), latent_dim=2)
        q, given = posterior(torch.zeros(4, 4)), posterior.network.output
        scale = bounded_scale(given[..., 3:], 1e-3, 1e3)
        z = q.rsample()
        direction = torch.randn(4, 2)
        (found,) = torch.autograd.grad((z * direction).sum(), given)
        share = output[..., :1].softmax(-2) * direction[:, None]  # (B, M, D)
        noise = ((z[:, None] - given[..., 1:3]) / scale).detach()
        (by_raw,) = torch.autograd.grad((scale * share * noise).sum(), given)
        expected = torch.cat([torch.zeros(4, 3, 1), share, by_raw[..., 3:]], -1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)

    def test_its_draws_carry_the_gradient_of_the_mean(self, double):
        """Of E|z|^2, in the mean of 40,000 draws; 5 standard errors, one false alarm in 60,000 for 30 numbers."""
        output = torch.randn(1, 3, 5)
        posterior = MixturePosterior(Given(output), latent_dim=2)
        scale = bounded_scale(posterior.network.output[..., 3:], 1e-3, 1e3)
        squares = (posterior.network.output[..., 1:3].square() + scale.square()).sum(-1)
        exact = torch.autograd.grad(
            (posterior.network.output[..., 0].softmax(-1) * squares).sum(), posterior.network.output
        )[0]
        means = []
        for _ in range(40):
            z = posterior(torch.zeros(1, 4)).expand((1_000, 1)).rsample()
            means.append(torch.autograd.grad(z.square().sum(-1).mean(), posterior.network.output)[0])
        means = torch.stack(means)
        error = means.std(0) / 40**0.5
        assert ((means.mean(0) - exact).abs() < 5 * error + 1e-12).all() and (error < 0.05 * exact.abs().max()).all()

    def test_bad_input(self):
        with pytest.raises(ValueError, match="^latent_dim: found 1, expected an integer of 2 or more"):
            MixturePosterior(Given(torch.zeros(5, 2, 3)), latent_dim=1)
        with pytest.raises(
            ValueError, match=r"^MixturePosterior: found a network output of shape \(5, 2, 3\), expected"
        ):
            MixturePosterior(Given(torch.zeros(5, 2, 3)), latent_dim=2)(torch.zeros(5, 4))
