"""The standard normal prior: its density, its device and dtype, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vae import StandardNormal


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
