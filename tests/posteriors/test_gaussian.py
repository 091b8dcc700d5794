"""Gaussian posteriors: their densities, and a scale that no network output makes useless."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import MLP, ConditionalMLP, DiagonalNormal, FullNormal, ImageEncoder, LowRankNormal
from pyro_vae.nn.scales import bounded_scale
from pyro_vae.posteriors import precision_weighted
from tests.support.given import Given


class Raw(nn.Module):
    """A network whose raw log-scale is given."""

    def __init__(self, raw):
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, x):
        return torch.stack([torch.zeros_like(self.raw), self.raw], -2).expand(len(x), 2, -1)


class TestDiagonalNormal:
    @pytest.mark.parametrize(
        "network", [MLP((4, 4), (2, 3), (5,)), ImageEncoder((4, 4), (2, 3), (2,))], ids=["mlp", "conv"]
    )
    @pytest.mark.parametrize("batch_shape", [(), (5,), (2, 5)])
    def test_shapes(self, network, batch_shape):
        q = DiagonalNormal(network)(torch.randn(*batch_shape, 4, 4))
        assert (q.batch_shape, q.event_shape, q.has_rsample) == (batch_shape, (3,), True)

    def test_it_is_the_formula(self, double):
        network = MLP(4, (2, 3), (5,))
        x, z = torch.randn(7, 4), torch.randn(7, 3)
        loc, raw = network(x)[:, 0], network(x)[:, 1]
        half = math.log(1e3)
        log_scale = half * torch.tanh(raw / half)
        expected = -0.5 * ((z - loc) / log_scale.exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(DiagonalNormal(network)(x).log_prob(z), expected.sum(-1), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("low", "high"), [(1e-3, 1e3), (0.1, 2.0)])
    def test_no_network_output_breaks_it(self, dtype, low, high):
        raw = torch.tensor([-math.inf, -1e30, -50.0, 0.0, 50.0, 1e30, math.inf], dtype=dtype)
        network = Raw(raw)
        q = DiagonalNormal(network, low, high)(torch.zeros(3, 4))
        sigma, slack = q.base_dist.scale, 16 * torch.finfo(dtype).eps
        assert (sigma >= low * (1 - slack)).all() and (sigma <= high * (1 + slack)).all()
        z = q.rsample()
        (q.log_prob(z) - z.square().sum(-1)).sum().backward()
        assert torch.isfinite(z).all() and torch.isfinite(network.raw.grad).all()
        assert network.raw.grad[3] != 0

    def test_draws_carry_the_gradient_to_the_network(self, double):
        network = Raw(torch.tensor([0.3]))
        torch.manual_seed(0)
        z = DiagonalNormal(network)(torch.zeros(1, 4)).rsample()
        z.sum().backward()
        # z = σ ε: its derivative by the raw log-scale is z (1 - tanh²(raw / h)).
        slope = z.item() * (1 - math.tanh(0.3 / math.log(1e3)) ** 2)
        assert network.raw.grad.item() == pytest.approx(slope, rel=1e-12)

    @pytest.mark.parametrize("out_shape", [(3,), (3, 2), (1, 3), (4, 3)])
    def test_a_network_of_another_output_is_refused(self, out_shape):
        expected = r"^DiagonalNormal: found a network output of shape \(5, .*\), expected \(\*batch, 2, latent_dim\)$"
        with pytest.raises(ValueError, match=expected):
            DiagonalNormal(MLP(4, out_shape, ()))(torch.zeros(5, 4))

    def test_of_several_tensors(self):
        posterior = DiagonalNormal(ConditionalMLP((4, 4), 3, (2, 6), (5,)))
        q = posterior(torch.randn(5, 4, 4), torch.randn(7, 5, 3))
        assert (q.batch_shape, q.event_shape) == ((7, 5), (6,))


def gaussian(*shape):
    return dist.Normal(torch.randn(*shape), 0.1 + 3 * torch.rand(*shape)).to_event(1)


class TestPrecisionWeighted:
    def test_it_is_the_normalised_product(self, double):
        first, second = gaussian(5, 3), gaussian(5, 3)
        merged = precision_weighted(first, second)
        assert (merged.batch_shape, merged.event_shape, merged.has_rsample) == ((5,), (3,), True)
        # The product is the merged density times a constant: no function of z.
        z = 4 * torch.randn(100, 5, 3)
        ratio = first.log_prob(z) + second.log_prob(z) - merged.log_prob(z)
        torch.testing.assert_close(ratio, ratio[:1].expand(100, 5), rtol=0, atol=1e-9)

    def test_it_is_the_papers_equations(self, double):
        first, second = gaussian(5, 3), gaussian(5, 3)
        (m1, s1), (m2, s2) = ((q.base_dist.loc, q.base_dist.scale) for q in (first, second))
        precision = s1**-2 + s2**-2
        merged = precision_weighted(first, second).base_dist
        torch.testing.assert_close(merged.scale, precision**-0.5, rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.loc, (m1 * s1**-2 + m2 * s2**-2) / precision, rtol=1e-11, atol=1e-12)

    def test_data_meet_all_of_their_particles(self, double):
        evidence, prior = gaussian(5, 3), gaussian(7, 5, 3)
        for merged in (precision_weighted(evidence, prior), precision_weighted(prior, evidence)):
            assert (merged.batch_shape, merged.event_shape) == ((7, 5), (3,))
            for k in range(7):
                one = dist.Normal(prior.base_dist.loc[k], prior.base_dist.scale[k]).to_event(1)
                expected = precision_weighted(evidence, one)
                torch.testing.assert_close(merged.mean[k], expected.mean, rtol=1e-12, atol=1e-14)
                torch.testing.assert_close(merged.stddev[k], expected.stddev, rtol=1e-12, atol=0)

    def test_images(self):
        images = dist.Normal(torch.zeros(5, 2, 4, 4), 1.0).to_event(3)
        merged = precision_weighted(images, images)
        assert (merged.batch_shape, merged.event_shape) == ((5,), (2, 4, 4))
        torch.testing.assert_close(merged.variance, torch.full((5, 2, 4, 4), 0.5))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_bounds_of_the_scales_do_not_break_it(self, dtype):
        low, high = (DiagonalNormal(Raw(torch.tensor([raw], dtype=dtype)))(torch.zeros(4, 1)) for raw in (-1e30, 1e30))
        for first, second, scale in ((low, low, 1e-3 / 2**0.5), (high, high, 1e3 / 2**0.5), (low, high, 1e-3)):
            merged = precision_weighted(first, second).base_dist
            torch.testing.assert_close(merged.scale, torch.full((4, 1), scale, dtype=dtype), rtol=1e-4, atol=0)

    @pytest.mark.parametrize(
        ("other", "found"),
        [
            (dist.Laplace(torch.zeros(3), 1.0).to_event(1), "Independent"),
            (dist.MultivariateNormal(torch.zeros(3), torch.eye(3)), "MultivariateNormal"),
            (torch.zeros(3), "tensor"),
            (None, "None"),
        ],
    )
    def test_anything_else_is_refused(self, other, found):
        message = rf"^found {found}.*, expected a diagonal Gaussian, Normal\(\.\.\.\)\.to_event\(n\)$"
        for pair in ((gaussian(3), other), (other, gaussian(3))):
            with pytest.raises(TypeError, match=message):
                precision_weighted(*pair)


class TestFullNormal:
    def test_it_is_the_formula(self, double):
        output = torch.randn(5, 2 * 3 + 3)
        q = FullNormal(Given(output))(torch.zeros(5, 4))
        scale = bounded_scale(output[:, 3:6], 1e-3, 1e3)
        factor = torch.diag_embed(scale)
        factor[:, 1, 0], factor[:, 2, 0], factor[:, 2, 1] = output[:, 6], output[:, 7], output[:, 8]
        torch.testing.assert_close(q.covariance_matrix, factor @ factor.mT, rtol=1e-12, atol=1e-12)
        noise = torch.linalg.solve(factor, (torch.zeros(3) - output[:, :3])[..., None])[..., 0]
        expected = -0.5 * noise.square().sum(-1) - scale.log().sum(-1) - 1.5 * math.log(2 * math.pi)
        torch.testing.assert_close(q.log_prob(torch.zeros(3)), expected, rtol=1e-11, atol=0)

    def test_one_latent_has_no_covariance(self):
        q = FullNormal(Given(torch.tensor([[0.5, 0.0]])))(torch.zeros(1, 4))
        assert q.event_shape == (1,) and q.covariance_matrix.item() == pytest.approx(1.0)

    def test_no_network_output_breaks_it(self):
        q = FullNormal(Given(torch.tensor([[0.0, 0.0, 1e30, -1e30, 3.0]])))(torch.zeros(1, 4))
        z = q.rsample()
        q.log_prob(z).sum().backward()
        assert torch.isfinite(z).all() and torch.isfinite(q.log_prob(z)).all()

    def test_a_length_that_fits_no_latent(self):
        with pytest.raises(ValueError, match=r"^FullNormal: found a network output of shape \(5, 6\), expected"):
            FullNormal(Given(torch.zeros(5, 6)))(torch.zeros(5, 4))


class TestLowRankNormal:
    def test_it_is_the_formula(self, double):
        output = torch.randn(5, 2 + 2, 3)
        q = LowRankNormal(Given(output), rank=2)(torch.zeros(5, 4))
        factor, scale = output[:, 2:].mT, bounded_scale(output[:, 1], 1e-3, 1e3)
        covariance = factor @ factor.mT + torch.diag_embed(scale**2)
        z = torch.randn(5, 3)
        expected = dist.MultivariateNormal(output[:, 0], covariance).log_prob(z)
        torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(q.covariance_matrix, covariance, rtol=1e-12, atol=1e-12)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="^rank: found 0, expected a positive integer"):
            LowRankNormal(Given(torch.zeros(5, 2, 3)), rank=0)
        with pytest.raises(ValueError, match=r"^LowRankNormal: found a network output of shape \(5, 3, 3\), expected"):
            LowRankNormal(Given(torch.zeros(5, 3, 3)), rank=2)(torch.zeros(5, 4))
