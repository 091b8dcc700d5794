"""A mixture as posterior: its density, draws and gradients."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import IWAE, MixturePosterior
from pyro_vae.nn.scales import bounded_scale
from pyro_vae.posteriors.pathwise import gradient_by_logits
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

    @pytest.mark.parametrize("num_components, equal_means", [(1, False), (2, False), (4, True)])
    @pytest.mark.parametrize("dim, reach, num", [(1, 15.0, 1501), (2, 12.0, 401)])
    def test_the_weights_have_their_gradient(self, num_components, equal_means, dim, reach, num, double):
        """The integral of q v·∇f is the derivative of that of q f, on a grid that is fine enough for rounding alone."""
        loc, scale = torch.randn(num_components, dim) + 1, (0.3 * torch.randn(num_components, dim)).exp()
        logits = torch.randn(num_components, requires_grad=True)
        if equal_means:
            loc[1] = loc[0]
        axis = torch.linspace(-reach, reach, num)
        z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim).requires_grad_()
        f = z.sum(-1).cos() + z[:, 0] * z[:, -1] + z[:, 0]
        (slope,) = torch.autograd.grad(f.sum(), z)
        components = dist.Normal(loc, scale).to_event(1)
        q = dist.MixtureSameFamily(dist.Categorical(logits=logits), components).log_prob(z.detach()).exp()
        cell = (axis[1] - axis[0]) ** dim
        (exact,) = torch.autograd.grad((q * f.detach()).sum() * cell, logits)
        v = gradient_by_logits(z.detach(), slope, loc, scale, logits.detach())
        torch.testing.assert_close((q.detach()[:, None] * v).sum(0) * cell, exact, rtol=1e-10, atol=1e-12)

    def test_the_gradient_of_the_weights_is_the_same_at_any_origin(self, double):
        """So that of E[z0 z1] is exact far from it, in 200,000 draws; 5 standard errors."""
        logits, loc = torch.tensor([[0.3, -0.4]]), torch.tensor([[[-0.5, 0.2], [0.8, -0.1]]]) + 3
        output = torch.cat([logits[..., None], loc, torch.zeros(1, 2, 2)], -1)
        posterior = MixturePosterior(Given(output), latent_dim=2)
        (exact,) = torch.autograd.grad(
            (posterior.network.output[..., 0].softmax(-1) * loc.prod(-1)).sum(), posterior.network.output
        )
        means = []
        for _ in range(40):
            z = posterior(torch.zeros(1, 4)).expand((5_000, 1)).rsample()
            means.append(torch.autograd.grad(z.prod(-1).mean(), posterior.network.output)[0][..., 0])
        means = torch.stack(means)
        error = means.std(0) / 40**0.5
        assert ((means.mean(0) - exact[..., 0]).abs() < 5 * error).all() and (error < 0.05 * exact.abs().max()).all()

    def test_the_gradients_of_a_bound_agree(self, double):
        """Of IWAE's, reparameterised and doubly reparameterised: 30,000 data, 5 standard errors of the difference."""
        output = torch.tensor([[[0.3, -0.5, 0.2, -0.3, 0.1], [-0.4, 0.8, -0.1, 0.2, -0.2]]]).repeat(30_000, 1, 1)
        x = torch.full((30_000,), 0.7)
        posterior = MixturePosterior(Given(output), latent_dim=2)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(1.2 * z[..., 0] - z[..., 1], 0.7), obs=x)

        def guide(x):
            pyro.module("posterior", posterior)
            with pyro.plate("data", len(x)):
                pyro.sample("z", posterior(x))

        gradients = []
        for kind in ("reparam", "dreg"):
            loss = IWAE(3, gradient=kind).differentiable_loss(model, guide, x)
            gradients += torch.autograd.grad(loss, posterior.network.output)
        first, second = (each[..., 0] for each in gradients)
        error = (first.var(0) + second.var(0)).div(len(x)).sqrt()
        assert ((first.mean(0) - second.mean(0)).abs() < 5 * error).all() and (error < 0.2).all()

    def test_the_gradient_is_finite_in_many_dimensions(self):
        """In float32, of components whose scales differ by 10,000."""
        output = torch.randn(100, 5, 1 + 2 * 50) * torch.tensor([1.0] * 51 + [3.0] * 50)
        posterior = MixturePosterior(Given(output), latent_dim=50)
        posterior(torch.zeros(100, 4)).rsample((10,)).square().sum().backward()
        assert posterior.network.output.grad.isfinite().all()

    def test_bad_input(self):
        with pytest.raises(ValueError, match="^latent_dim: found 1, expected an integer of 2 or more"):
            MixturePosterior(Given(torch.zeros(5, 2, 3)), latent_dim=1)
        with pytest.raises(
            ValueError, match=r"^MixturePosterior: found a network output of shape \(5, 2, 3\), expected"
        ):
            MixturePosterior(Given(torch.zeros(5, 2, 3)), latent_dim=2)(torch.zeros(5, 4))
