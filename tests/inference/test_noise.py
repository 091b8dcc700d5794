"""Distributions as maps of noise: inverses, and densities by an autograd Jacobian and by integrals."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.inference.noise import from_noise, noise_dim, support_of, to_noise
from tests.support.exact import equal
from tests.support.noises import DISTRIBUTIONS, SCALARS, WITHOUT_INVERSE, WITHOUT_NOISE, B

WITH_INVERSE = [name for name in DISTRIBUTIONS if name not in WITHOUT_INVERSE]


def noise_for(fn, scale=1.0):
    """Noise of the shape that a draw has."""
    shape = to_noise(fn, fn.sample()).shape
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def free_entries(name, value):
    """The entries of a value that a density is a density of: those left after its constraints of equality."""
    if name == "Dirichlet":
        return value[..., :-1]
    if name == "correlations":
        return torch.stack([value[..., 1, 0], value[..., 2, 0], value[..., 2, 1]], -1)
    return value


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_value_is_in_the_support_and_has_the_density_of_the_distribution(name):
    fn = DISTRIBUTIONS[name]()
    mapped = from_noise(fn, noise_for(fn, 2.0))
    assert mapped.value.shape == (*fn.batch_shape, *fn.event_shape)
    assert mapped.log_noise.shape == mapped.log_q.shape == (B,)
    assert support_of(fn).check(mapped.value).all()
    if name not in WITHOUT_INVERSE:
        torch.testing.assert_close(mapped.log_q, fn.log_prob(mapped.value), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WITH_INVERSE)
def test_the_two_maps_invert_each_other(name):
    fn = DISTRIBUTIONS[name]()
    noise = noise_for(fn)
    torch.testing.assert_close(to_noise(fn, from_noise(fn, noise).value), noise, rtol=0, atol=1e-7)
    draw = fn.sample()
    torch.testing.assert_close(from_noise(fn, to_noise(fn, draw)).value, draw, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_densities_differ_by_the_jacobian(name):
    """log p0(noise) = log q(z) + log|det dz/dnoise|, the last by autograd; masks leave out log q alone."""
    fn = DISTRIBUTIONS[name]()
    noise = noise_for(fn)
    jacobian = torch.autograd.functional.jacobian(lambda e: free_entries(name, from_noise(fn, e).value), noise)
    mapped = from_noise(fn, noise)
    for b in range(B):
        num_dims = noise[b].numel()
        own = jacobian[b].reshape(num_dims, B, num_dims)
        away = own[:, [a for a in range(B) if a != b]]
        assert (away == 0).all()  # no datum has another's noise
        log_q = mapped.log_q[b]
        if name == "masked" and b == 1:
            assert log_q == 0
            log_q = fn.base_dist.log_prob(mapped.value)[b]
        if name == "masked inside":
            log_q = dist.Normal(fn.mean[b], 1.0).log_prob(mapped.value[b]).sum()
        equal(mapped.log_noise[b] - log_q, own[:, b].slogdet().logabsdet)


@pytest.mark.parametrize("name", SCALARS)
def test_the_density_of_noise_integrates_to_one(name):
    fn = SCALARS[name]()
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    mass = torch.trapezoid(from_noise(fn, grid[:, None].expand(-1, B)).log_noise.exp(), grid, dim=0)
    torch.testing.assert_close(mass, torch.ones(B).double(), rtol=0, atol=1e-6)  # the tails of Student's t beyond it


@pytest.mark.parametrize("name", ["Normal of a vector", "MultivariateNormal", "autoregressive", "planar"])
def test_the_noise_of_a_gaussian_or_a_flow_is_standard_normal(name):
    fn = DISTRIBUTIONS[name]()
    noise = noise_for(fn)
    equal(from_noise(fn, noise).log_noise, dist.Normal(0.0, 1.0).log_prob(noise).sum(-1))


@pytest.mark.parametrize("name", WITHOUT_INVERSE)
def test_a_flow_without_an_inverse_knows_the_noise_of_its_last_draw_alone(name):
    fn = DISTRIBUTIONS[name]()
    draw = fn.rsample()
    mapped = from_noise(fn, to_noise(fn, draw))
    equal(mapped.value, draw)
    equal(mapped.log_q, fn.log_prob(draw))
    with pytest.raises(NotImplementedError, match="^value: found one that was not drawn here, expected a draw"):
        to_noise(fn, draw.clone())


@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_no_map_is_known(name):
    assert noise_dim(WITHOUT_NOISE[name]()) is None


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_dimensions_of_an_event_of_noise(name):
    fn = DISTRIBUTIONS[name]()
    assert to_noise(fn, fn.sample()).dim() == 1 + noise_dim(fn)


def test_far_out_noise_keeps_a_finite_density():
    """A chain may propose anything; a sigmoid then rounds to the end of its interval."""
    for name in ("Uniform", "Beta", "Gamma", "LogNormal", "Dirichlet"):
        fn = DISTRIBUTIONS[name]()
        mapped = from_noise(fn, noise_for(fn).sign() * 30.0)
        assert not mapped.log_noise.isnan().any() and not mapped.value.isnan().any(), name
