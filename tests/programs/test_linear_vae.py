"""The linear VAE is probabilistic PCA: the package held to closed forms (Lucas et al. 2019), in float64."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_vae
from pyro_vae.diagnostics.diagnosis import posterior_means
from tests.support.linear_gaussian import PPCA, SigmaPointGuide

EXACT = 1e-10
ANGLES = [0.0, 0.3, math.pi / 4, 1.2]


def test_best_log_likelihood_is_that_of_the_eigenvalues():
    ppca = PPCA.of()
    d, k = 6, 2
    best = -0.5 * (ppca.eigenvalues[:k].log().sum() + (d - k) * ppca.variance.log() + d + d * math.log(2 * math.pi))
    estimate = pyro_vae.log_likelihood(ppca.vae.model, ppca.vae.guide, ppca.x, num_particles=3)
    assert estimate.mean() == pytest.approx(best.item(), abs=EXACT)


def test_unrotated_decoder_has_constant_weights_and_no_gap():
    ppca = PPCA.of()
    log_w = pyro_vae.log_weights(ppca.vae.model, ppca.vae.guide, ppca.x, num_particles=7)
    assert log_w.dtype == torch.float64
    torch.testing.assert_close(log_w, ppca.log_p().expand(7, -1), rtol=0, atol=EXACT)
    for objective in (pyro_vae.ELBO(), pyro_vae.ELBO(3), pyro_vae.IWAE(5)):
        bound = objective.bound(ppca.vae.model, ppca.vae.guide, ppca.x)
        torch.testing.assert_close(bound, ppca.log_p(), rtol=0, atol=EXACT)


def test_exact_guide_scores_without_error():
    ppca = PPCA.of()
    estimate = pyro_vae.log_likelihood(ppca.vae.model, ppca.vae.guide, ppca.x, num_particles=500, chunk_size=70)
    torch.testing.assert_close(estimate.values, ppca.log_p(), rtol=0, atol=EXACT)
    torch.testing.assert_close(estimate.ess, torch.full_like(estimate.ess, 500.0), rtol=1e-9, atol=0)
    assert estimate.std_error.max() < 1e-7  # the square root of float64's rounding
    assert estimate.khat.max() <= 0


@pytest.mark.parametrize("angle", ANGLES)
def test_rotated_decoder_loses_the_gap_of_a_diagonal_guide(angle):
    ppca = PPCA.of(angle)
    gap = 0.5 * (ppca.precision.diagonal().log().sum() - ppca.precision.logdet())
    torch.testing.assert_close(ppca.log_p() - ppca.exact_elbo(), gap.expand(len(ppca.x)), rtol=0, atol=EXACT)
    assert (gap > 1e-3) == (angle != 0)


@pytest.mark.parametrize("angle", ANGLES)
def test_log_p_is_elbo_plus_kl_to_the_posterior(angle):
    ppca = PPCA.of(angle)
    with torch.no_grad():  # any other guide: the identity holds for all, not for the best one alone
        ppca.vae.posterior.network.output.weight += 0.1
        ppca.vae.posterior.network.output.bias += torch.tensor([0.3, -0.2, 0.5, -0.4])
    q = ppca.vae.posterior(ppca.x)
    posterior = torch.distributions.MultivariateNormal(
        torch.linalg.solve(ppca.precision, ppca.weights.T @ ppca.x.T).T, ppca.variance * ppca.precision.inverse()
    )
    full_q = torch.distributions.MultivariateNormal(q.base_dist.loc, scale_tril=torch.diag_embed(q.base_dist.scale))
    kl = torch.distributions.kl_divergence(full_q, posterior)
    assert kl.min() > 0.1
    torch.testing.assert_close(ppca.exact_elbo() + kl, ppca.log_p(), rtol=0, atol=EXACT)


def test_optimum_has_no_gradient():
    ppca = PPCA.of()
    guide = SigmaPointGuide(ppca.vae.posterior)
    pyro_vae.ELBO(4)(ppca.vae.model, guide)(ppca.x).div(len(ppca.x)).backward()
    for name, parameter in ppca.vae.named_parameters():
        assert parameter.grad.abs().max() < EXACT, name


def test_kl_and_activity_of_each_unit_follow_its_eigenvalue():
    ppca = PPCA.of()
    q = ppca.vae.posterior(ppca.x).base_dist
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(kl, 0.5 * (ppca.eigenvalues[:2] / ppca.variance).log(), rtol=0, atol=EXACT)
    activity = posterior_means(ppca.vae.guide, ppca.x)["z"].var(0, correction=0)
    torch.testing.assert_close(activity, 1 - ppca.variance / ppca.eigenvalues[:2], rtol=0, atol=EXACT)
    assert pyro_vae.active_units(ppca.vae.guide, ppca.x) == {"z": 2}


def test_unit_that_ignores_the_data_is_not_active():
    ppca = PPCA.of()
    with torch.no_grad():  # what M⁻¹Wᵀ becomes when the second column of W is zero
        ppca.vae.posterior.network.output.weight[1] = 0
    assert pyro_vae.active_units(ppca.vae.guide, ppca.x) == {"z": 1}
