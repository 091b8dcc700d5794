r"""A variational autoencoder whose networks ignore their input is a Gaussian fitted by maximum likelihood.

.. math:: \hat\mu = \frac1N \sum_n x_n, \quad \hat\sigma^2 = \frac1N \sum_n (x_n - \hat\mu)^2, \quad
          \frac1N \sum_n \log \mathcal{N}(x_n; \hat\mu, \hat\sigma^2) = -\tfrac12 \bigl(\log 2\pi\hat\sigma^2 + 1\bigr)

The latents then say nothing of the data, their posterior is the prior, and the ELBO is the log-likelihood.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pyro_vae

NUM_DATA, DATA_DIM, LATENT_DIM = 40, 3, 2


class Constant(nn.Module):
    """The same learned output whatever the input."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.output = nn.Parameter(0.3 * torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand(*x.shape[:-1], *self.output.shape)


@pytest.mark.parametrize("scale", ["shared", "per_pixel"])
def test_constant_encoder_and_decoder_recover_mean_and_variance(scale):
    noise = torch.randn(NUM_DATA, DATA_DIM, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    data = torch.tensor([1.0, -0.5, 0.2]) + noise * torch.tensor([0.5, 0.9, 1.4])
    vae = pyro_vae.VAE(
        prior=pyro_vae.StandardNormal(LATENT_DIM),
        likelihood=pyro_vae.Gaussian(Constant(DATA_DIM), (DATA_DIM,), scale=scale),
        posterior=pyro_vae.DiagonalNormal(Constant(2, LATENT_DIM)),
    ).double()
    pyro_vae.fit(
        vae.model,
        vae.guide,
        data,
        objective=pyro_vae.ELBO(kl="analytic"),  # free of noise, as the decoder ignores what is drawn
        num_epochs=100,
        batch_size=NUM_DATA,
        lr=0.3,
        optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.5),
        seed=0,
        progress=False,
    )
    mean = data.mean(0)
    variance = data.var(0, correction=0)  # N, not N - 1, in the denominator
    if scale == "shared":
        variance = variance.mean().expand(DATA_DIM)
    best = (-0.5 * (torch.log(2 * math.pi * variance) + 1)).sum().item()
    assert torch.distributions.Normal(mean, variance.sqrt()).log_prob(data).sum(1).mean().item() == pytest.approx(best)

    with torch.no_grad():
        fitted, posterior = vae.likelihood(torch.zeros(1, LATENT_DIM)), vae.posterior(data)
    tight = {"rtol": 0, "atol": 1e-8}
    torch.testing.assert_close(fitted.mean[0], mean, **tight)
    torch.testing.assert_close(fitted.variance[0], variance, **tight)
    torch.testing.assert_close(posterior.mean, torch.zeros(NUM_DATA, LATENT_DIM).double(), **tight)
    torch.testing.assert_close(posterior.variance, torch.ones(NUM_DATA, LATENT_DIM).double(), **tight)

    assert pyro_vae.ELBO(kl="analytic").bound(vae.model, vae.guide, data).mean().item() == pytest.approx(best, abs=1e-9)
    estimate = pyro_vae.log_likelihood(vae.model, vae.guide, data, num_particles=10, seed=0)
    assert estimate.mean() == pytest.approx(best, abs=1e-8)
