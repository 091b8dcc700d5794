"""A scale that no network output makes useless."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vae.nn.scales import bounded_scale


class TestBoundedScale:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_no_input_but_nan_gives_a_bad_scale_or_gradient(self, dtype):
        raw = torch.tensor(
            [-math.inf, -1e30, -1e4, -1.0, 0.0, 1.0, 1e4, 1e30, math.inf], dtype=dtype, requires_grad=True
        )
        scale = bounded_scale(raw, 1e-3, 1e3)
        scale.log().sum().backward()
        # exp(log 1000) is 1000 but for rounding: within 16 of the smallest relative steps.
        slack = 16 * torch.finfo(dtype).eps
        assert (scale >= 1e-3 * (1 - slack)).all() and (scale <= 1e3 * (1 + slack)).all()
        assert torch.isfinite(raw.grad).all()
        assert (scale.diff() >= 0).all()

    def test_around_zero_it_is_the_exponential(self, double):
        raw = torch.linspace(-0.1, 0.1, 21, requires_grad=True)
        scale = bounded_scale(raw, 1e-2, 1e2)
        # tanh(u) = u - u³/3 + …, so the log-scale is off by less than raw³ / (3 h²), h = log 100
        assert ((scale.log() - raw).abs() <= raw.abs() ** 3 / (3 * math.log(100) ** 2) + 1e-15).all()
        (slope,) = torch.autograd.grad(scale[10], raw)
        assert slope[10].item() == pytest.approx(1.0, rel=1e-12)

    def test_the_middle_is_the_geometric_mean(self, double):
        assert bounded_scale(torch.zeros(()), 0.01, 10.0).item() == pytest.approx(math.sqrt(0.1), rel=1e-12)
