"""Referees from elsewhere: log p(x) of digits and moments of their latents, each by methods that share no code.

A small VAE of two latents is trained on handwritten digits. Its log p(x) is known by quadrature; annealed importance
sampling and importance sampling have to agree with it within their errors, and Pyro's NUTS with the moments of the
posterior, run on the very model that is trained and scored.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from pyro.infer.mcmc import MCMC, NUTS
from pyro.ops.stats import effective_sample_size

import pyro_vae
from pyro_vae import VAE, ais, log_likelihood, sandwich
from tests.support.quadrature import quadrature

NUM_DIGITS = 20
ALARM = 5.0  # standard errors: a false alarm in 1.7 million for one statement
ROUNDING = 1e-4  # of 64 pixels in float32, nats


@functools.cache
def digits():
    """The VAE, 20 test digits, and by quadrature their log p(x) and the moments of their latents."""
    data = pyro_vae.data.load("digits", binarize="static")
    torch.manual_seed(0)
    vae = VAE((8, 8), 2, (16,))
    pyro_vae.fit(
        vae.model, vae.guide, data.train, num_epochs=10, batch_size=100, lr=0.02, seed=0, compile=False, progress=False
    )
    x = data.test[:NUM_DIGITS]
    return vae, x, quadrature(copy.deepcopy(vae).double(), x.double())


def test_the_quadrature_has_converged():
    """Another grid, coarser and wider, gives the same; the training has made the latents tell something."""
    vae, x, (log_p, mean, covariance) = digits()
    again = quadrature(copy.deepcopy(vae).double(), x.double(), 101, 8.0)
    for found, expected in zip(again, (log_p, mean, covariance), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert mean.std(0).min() > 0.3 and covariance.diagonal(dim1=1, dim2=2).max() < 0.9


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_annealed_importance_sampling_of_twenty_digits(start):
    vae, x, (log_p, _, _) = digits()
    estimate = ais(vae.model, vae.guide, x, 100, 12, start=start, seed=0)
    assert estimate.std_error.max() < 0.2
    assert ((estimate.values - log_p).abs() < ALARM * estimate.std_error + ROUNDING).all()
    assert abs(estimate.mean() - log_p.mean()) < ALARM * estimate.mean_error() + ROUNDING


@pytest.mark.parametrize(
    ("number", "num_particles", "most"),
    [
        (NUM_DIGITS, 50_000, 3e-2),
        pytest.param(3, 10**6, 5e-3, marks=pytest.mark.cross),
        pytest.param(NUM_DIGITS, 10**6, 1e-2, marks=pytest.mark.cross),
    ],
)
def test_importance_sampling_with_a_million_particles(number, num_particles, most):
    """A million of three digits takes a second, of all twenty ten, which `make test-all` takes."""
    vae, x, (log_p, _, _) = digits()
    estimate = log_likelihood(vae.model, vae.guide, x[:number], num_particles, compile=False, seed=0)
    assert estimate.std_error.max() < most
    assert ((estimate.values - log_p[:number]).abs() < ALARM * estimate.std_error + ROUNDING).all()


def test_nuts_on_the_same_model_has_the_moments_of_the_posterior():
    """Of the first three digits at once, which the model draws independently; errors by effective sample sizes."""
    vae, x, (_, mean, covariance) = digits()
    model = copy.deepcopy(vae).double().eval().requires_grad_(False).model
    torch.manual_seed(0)
    mcmc = MCMC(NUTS(model, step_size=0.5, max_tree_depth=3), num_samples=200, warmup_steps=50, disable_progbar=True)
    mcmc.run(x[:3].double())
    z = mcmc.get_samples()["z"]  # (200, 3, 2)
    away = z - mean[:3]
    products = torch.stack([away[..., 0].square(), away[..., 1].square(), away.prod(-1)], -1)
    variances = torch.stack([covariance[:3, 0, 0], covariance[:3, 1, 1], covariance[:3, 0, 1]], -1)
    for found, expected in ((z, mean[:3]), (products, variances)):
        size = effective_sample_size(found[None], sample_dim=1, chain_dim=0).clamp(max=len(z))
        assert size.min() > 50
        assert ((found.mean(0) - expected).abs() < ALARM * found.std(0) / size.sqrt()).all()


def test_a_sandwich_of_simulated_digits():
    """Quadrature lies between, in the mean of 50 digits that the VAE draws."""
    vae, _, _ = digits()
    found = sandwich(vae.model, vae.guide, 50, 4, 10, seed=0)
    log_p = quadrature(copy.deepcopy(vae).double(), found.data.double())[0]
    below, above = log_p - found.forwards.values, found.backwards.values - log_p
    for slack in (below, above):
        assert slack.mean() > -3 * slack.std() / 50**0.5  # by chance in one run of 700
    assert abs(found.gap) < 0.5
