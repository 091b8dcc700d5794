"""A flow as posterior: its density and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_vae import ELBO, MLP, VAE, Flow, FlowPosterior


class TestFlowPosterior:
    def test_a_context_of_another_length(self):
        posterior = FlowPosterior(Flow("coupling", 2, context_dim=5), MLP(4, 3))
        with pytest.raises(
            ValueError, match=r"^FlowPosterior: found a network output of shape \(6, 3\), expected \(\*batch"
        ):
            posterior(torch.zeros(6, 4))

    @pytest.mark.parametrize("name", ["autoregressive", "coupling", "householder"])
    def test_with_constant_parameters_the_gradient_goes_through_z_alone(self, name, double):
        """The loss of ELBO(gradient="stl") against the formula, written with a copy of the posterior as constants."""
        torch.manual_seed(0)
        vae = VAE((4,), 2, (5,), posterior=FlowPosterior(Flow(name, 2, 3, hidden_dims=(4,)), MLP(4, 3, (5,)))).double()
        constants = copy.deepcopy(vae.posterior).requires_grad_(False)
        x = torch.bernoulli(torch.full((6, 4), 0.5))
        torch.manual_seed(1)
        loss = ELBO(gradient="stl").differentiable_loss(vae.model, vae.guide, x)
        found = torch.autograd.grad(loss, list(vae.parameters()))
        torch.manual_seed(1)
        z = vae.posterior(x).rsample()
        bound = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - constants(x).log_prob(z)
        expected = torch.autograd.grad(-bound.sum(), list(vae.parameters()))
        torch.testing.assert_close(loss, -bound.sum(), rtol=1e-12, atol=0)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
