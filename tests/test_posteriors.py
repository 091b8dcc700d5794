"""Priors and posteriors: the distributions they say, and a posterior scale that no network output makes useless."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyro_vae import MLP, DiagonalNormal, ImageEncoder, StandardNormal


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


class TestStandardNormal:
    def test_it_is_the_formula(self, double):
        z = torch.randn(5, 3)
        expected = -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
        p = StandardNormal(3)()
        assert (p.batch_shape, p.event_shape) == ((), (3,))
        torch.testing.assert_close(p.log_prob(z), expected, rtol=1e-14, atol=0)

    def test_it_moves_with_its_module_and_weighs_nothing(self, device):
        prior = StandardNormal(3).to(device, torch.float64)
        draw = prior().sample((2,))
        assert (draw.device.type, draw.dtype, tuple(draw.shape)) == (device.type, torch.float64, (2, 3))
        assert list(prior.parameters()) == [] and prior.state_dict() == {}

    @pytest.mark.parametrize("value", [0, -1, 2.0, "3", None])
    def test_a_length_that_is_none(self, value):
        with pytest.raises(ValueError, match=f"^latent_dim: found {value!r}, expected a positive integer"):
            StandardNormal(value)
