"""Active units and posterior means."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae.diagnostics import posterior_means


def guide(x):
    """Unit i of z1 moves with datum i / 10; z2 follows z1."""
    with pyro.plate("data", len(x), dim=-1):
        z1 = pyro.sample("z1", dist.Normal(x * torch.tensor([0.0, 0.05, 0.2, 3.0]), 0.01).to_event(1))
        pyro.sample("z2", dist.Normal(z1[:, 3:], 1.0).to_event(1))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1000, 1).expand(1000, 4)  # one number a datum, of unit variance


def test_means_of_each_site(x):
    means = posterior_means(guide, x, batch_size=300)
    torch.testing.assert_close(means["z1"], x * torch.tensor([0.0, 0.05, 0.2, 3.0]))
    assert means["z2"].shape == (1000, 1)
    assert (means["z2"] - 3 * x[:, :1]).abs().max() < 0.06  # z1 was drawn with a scale of 0.01


def test_units_are_active_above_the_threshold(x):
    assert pyro_vae.active_units(guide, x) == {"z1": 2, "z2": 1}  # variances 0, 0.0025, 0.04, 9
    assert pyro_vae.active_units(guide, x, threshold=0.001) == {"z1": 3, "z2": 1}


def test_state_is_given_back(x):
    vae = pyro_vae.VAE((4,), 2, (5,))
    vae.train()
    generator = torch.get_rng_state()
    assert set(pyro_vae.active_units(vae.guide, x)) == {"z"}
    assert vae.guide.training and torch.equal(generator, torch.get_rng_state())
    assert list(pyro.get_param_store()) == []
