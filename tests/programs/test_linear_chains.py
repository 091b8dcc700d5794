"""Chains of linear Gaussian layers: the hierarchical programs held to closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal

import pyro_vae
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from tests.support.exact import DEPTHS, EXACT, density, equal
from tests.support.linear_chains import Affine, LinearChain, log_normal

GUIDES = ["bottom-up", "top-down"]


@pytest.mark.parametrize("num_layers", DEPTHS)
def test_log_p_is_that_of_the_collapsed_gaussian(num_layers):
    chain = LinearChain.random(num_layers)
    x = chain.data()
    mean, covariance = chain.layers[-1].bias.detach(), torch.diag(chain.layers[-1].scale.detach() ** 2)
    for layer in reversed(chain.layers[:-1]):  # down the chain: another way to the same marginal as the joint's
        weight, noise = layer.weights[0].detach(), torch.diag(layer.scale.detach() ** 2)
        mean, covariance = weight @ mean + layer.bias.detach(), weight @ covariance @ weight.T + noise
    log_p = torch.from_numpy(multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy()))
    equal(chain.log_p(x), log_p)
    hvae = chain.program(chain.exact_posteriors("bottom-up"), "bottom-up")
    equal(pyro_vae.log_weights(hvae.model, hvae.guide, x)[0], log_p)
    estimate = pyro_vae.log_likelihood(hvae.model, hvae.guide, x, num_particles=50, chunk_size=20, seed=0)
    equal(estimate.values, log_p)
    assert estimate.std_error.max() < 1e-7  # the square root of float64's rounding
    assert estimate.khat.max() <= 0


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("num_layers", DEPTHS)
def test_weights_are_the_formula_term_by_term(num_layers, guide):
    chain = LinearChain.random(num_layers)
    x, posteriors = chain.data(), chain.random_posteriors(guide)
    hvae = chain.program(posteriors, guide)
    torch.manual_seed(3)
    log_w = pyro_vae.log_weights(hvae.model, hvae.guide, x, num_particles=7)
    torch.manual_seed(3)
    pair = trace_pair(ProgramPair(hvae.model, hvae.guide), x, num_particles=7)
    z = {0: x} | {t: pair.guide_sites[f"z{t}"]["value"] for t in range(1, num_layers + 1)}
    assert all(z[t].shape == (7, len(x), chain.sizes[t]) for t in range(1, num_layers + 1))
    terms = {}
    with torch.no_grad():
        for t, layer in enumerate(chain.layers):
            above = z[t + 1] @ layer.weights[0].T if t < num_layers else 0
            terms[t] = density(z[t], above + layer.bias, layer.scale)
        equal(pair.terms()["x"].detach(), terms[0])
        for t, q in enumerate(posteriors, 1):
            if guide == "bottom-up":
                loc = z[t - 1] @ q.weights[0].T
            elif t == num_layers:
                loc = x @ q.weights[0].T
            else:
                loc = x @ q.weights[0].T + z[t + 1] @ q.weights[1].T
            terms[t] = terms[t] - density(z[t], loc + q.bias, q.scale)
            equal(pair.terms()[f"z{t}"].detach(), terms[t])
    assert len(pair.terms()) == num_layers + 1
    equal(log_w.detach(), sum(terms.values()))
    assert log_w.std(0).min() > 0.1  # particles that differ


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("num_layers", DEPTHS)
def test_with_the_exact_posterior_chain_the_weights_are_constant(num_layers, guide):
    chain = LinearChain.random(num_layers)
    x, posteriors = chain.data(), chain.exact_posteriors(guide)
    hvae = chain.program(posteriors, guide)
    log_w = pyro_vae.log_weights(hvae.model, hvae.guide, x, num_particles=9)
    assert log_w.dtype == torch.float64
    equal(log_w, chain.log_p(x).expand(9, -1))
    with torch.no_grad():  # a mean of the top layer that is off by a little is enough for them to vary
        posteriors[-1].bias += 0.01
    assert pyro_vae.log_weights(hvae.model, hvae.guide, x, num_particles=9).std(0).min() > 1e-4


def best_markov_guide(chain):
    """Diagonal Gaussians of the exact conditional means and 1/diag(precision); what they lose, in nats."""
    posteriors, gap = [], 0.0
    for t in range(1, len(chain.layers)):
        weights, bias, covariance = chain.conditional(t, [t - 1])
        precision = covariance.inverse()
        posteriors.append(Affine(*weights, bias=bias, scale=precision.diagonal().rsqrt()))
        gap += 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    return posteriors, gap


@pytest.mark.parametrize("num_layers", DEPTHS)
def test_optimal_markov_guide_and_its_elbo(num_layers):
    """log p(x) - ELBO = Σ_t ½ (Σ_i log Λ_t,ii - log det Λ_t), Λ_t the precision of p(z_t|z_{t-1})."""
    chain = LinearChain.random(num_layers)
    x = chain.data()
    posteriors, gap = best_markov_guide(chain)
    best = chain.log_p(x) - gap
    assert gap > 0.05
    equal(chain.elbo(posteriors, "bottom-up", x).detach(), best)

    hvae = chain.program(posteriors, "bottom-up")
    num_particles = 10_000
    torch.manual_seed(5)
    with torch.no_grad():
        log_w = pyro_vae.log_weights(hvae.model, hvae.guide, x, num_particles)
    error = log_w.std(0) / math.sqrt(num_particles)
    # Five standard errors: for 6 data at each of 4 depths a false alarm has a chance of 24 * 5.7e-7 = 1.4e-5.
    assert ((log_w.mean(0) - best).abs() < 5 * error).all()
    assert error.max() < 0.1 * gap  # small enough to see the gap

    parameters = [parameter for part in posteriors for parameter in part.parameters()]
    for gradient in torch.autograd.grad(chain.elbo(posteriors, "bottom-up", x).sum(), parameters):
        assert gradient.abs().max() < EXACT
    num_points = chain.at_sigma_points(posteriors)  # and so says the package's own objective, in expectation
    objective = pyro_vae.ELBO(num_points)
    bound = objective.bound(hvae.model, hvae.guide, x)
    equal(bound.detach(), best)
    for gradient in torch.autograd.grad(bound.sum(), parameters):
        assert gradient.abs().max() < EXACT

    random = torch.Generator().manual_seed(2)
    for parameter in parameters:  # no other linear guide is better, whichever parameter it differs in
        start = parameter.detach().clone()
        with torch.no_grad():
            for _ in range(3):
                parameter.copy_(start + 0.05 * torch.randn(start.shape, generator=random, dtype=torch.float64))
                assert (chain.elbo(posteriors, "bottom-up", x).mean() < best.mean() - 1e-6).all()
            parameter.copy_(start)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("num_layers", DEPTHS)
def test_log_p_is_elbo_plus_kl_to_the_posterior(num_layers, guide):
    chain = LinearChain.random(num_layers)
    x, posteriors = chain.data(), chain.random_posteriors(guide)
    with torch.no_grad():
        elbo, kl = chain.elbo(posteriors, guide, x), chain.kl_to_posterior(posteriors, guide, x)
    assert kl.min() > 0.1
    equal(elbo + kl, chain.log_p(x))
    hvae = chain.program(posteriors, guide)
    num_points = chain.at_sigma_points(posteriors)
    with torch.no_grad():
        equal(pyro_vae.log_weights(hvae.model, hvae.guide, x, num_points).mean(0) + kl, chain.log_p(x))


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_one_layer_is_the_vae(likelihood, guide):
    torch.manual_seed(2)
    vae = pyro_vae.VAE((3, 2), 4, (9, 7), likelihood, activation="gelu")
    torch.manual_seed(2)
    hvae = pyro_vae.HVAE((3, 2), (4,), (9, 7), likelihood, guide=guide, activation="gelu")
    pairs = list(zip(vae.state_dict().values(), hvae.state_dict().values(), strict=True))
    assert len(pairs) == 12 and all(torch.equal(one, other) for one, other in pairs)
    torch.manual_seed(1)
    x = torch.rand(5, 3, 2).round() if likelihood == "bernoulli" else torch.rand(5, 3, 2)

    def same(call):
        results = []
        for program in (vae, hvae):
            torch.manual_seed(6)
            results.append(call(program))
        return torch.equal(*results)

    assert same(lambda program: pyro_vae.log_weights(program.model, program.guide, x))
    assert same(lambda program: pyro_vae.log_weights(program.model, program.guide, x, num_particles=3))
    assert same(lambda program: program.sample(8))
    assert same(lambda program: program.sample(8, mean=True))
    assert same(lambda program: program.encode(x))
    assert same(lambda program: program.reconstruct(x))


@pytest.mark.parametrize("num_layers", DEPTHS)
def test_deeper_linear_layers_have_the_likelihood_of_one(num_layers):
    """z_1 alone, with its marginal as the prior: p(z_1) of a linear chain is one Gaussian, whatever is above it."""
    chain = LinearChain.random(num_layers)
    x = chain.data()
    mean, covariance = chain.marginal(1)
    weight, bias, scale = (
        p.detach() for p in (chain.layers[0].weights[0], chain.layers[0].bias, chain.layers[0].scale)
    )
    log_p = log_normal(x, weight @ mean + bias, weight @ covariance @ weight.T + torch.diag(scale**2))
    equal(log_p, chain.log_p(x))

    precision = covariance.inverse() + weight.T @ torch.diag(scale**-2) @ weight
    gain = torch.linalg.solve(precision, weight.T / scale**2)  # Bayes' rule for one layer
    shift = torch.linalg.solve(precision, torch.linalg.solve(covariance, mean)) - gain @ bias
    flat = pyro_vae.VAE(
        prior=Affine(bias=mean, scale=torch.linalg.cholesky(covariance)),
        likelihood=chain.layers[0],
        posterior=Affine(gain, bias=shift, scale=torch.linalg.cholesky(precision.inverse())),
    )
    deep = chain.program(chain.exact_posteriors("top-down"), "top-down")
    for program in (flat, deep):
        log_w = pyro_vae.log_weights(program.model, program.guide, x, num_particles=5)
        equal(log_w.detach(), log_p.expand(5, -1))
