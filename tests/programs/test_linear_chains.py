"""Chains of linear Gaussian layers: the hierarchical programs held to closed forms, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

import pyro_vae
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from tests.support.linear_chains import Affine, LinearChain, log_normal, random_affine

EXACT = 1e-10
DEPTHS = [1, 2, 3, 4]
GUIDES = ["bottom-up", "top-down"]


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def density(value, mean, scale):
    """log N(value; mean, diag(scale²)) by the formula, summed over the last dimension."""
    return -0.5 * (((value - mean) / scale) ** 2 + 2 * torch.log(scale) + math.log(2 * math.pi)).sum(-1)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


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


class Linear(nn.Module):
    """A deterministic layer of a ladder."""

    def __init__(self, part: Affine) -> None:
        super().__init__()
        self.part = part

    def forward(self, x):
        return x @ self.part.weights[0].T + self.part.bias


def ladder_of(chain, encoders, posteriors):
    likelihood, *transitions = chain.layers[:-1]
    return pyro_vae.LadderVAE(
        prior=chain.layers[-1], transitions=transitions, likelihood=likelihood, encoders=encoders, posteriors=posteriors
    )


@pytest.mark.parametrize("num_layers", DEPTHS)
def test_ladder_is_the_precision_weighted_product(num_layers):
    chain = LinearChain.random(num_layers)
    random = torch.Generator().manual_seed(8)
    widths = [chain.sizes[0], *(6 - t for t in range(num_layers))]
    encoders = [Linear(random_affine(random, above, below)) for below, above in pairwise(widths)]
    evidence = [random_affine(random, size, width) for size, width in zip(chain.sizes[1:], widths[1:], strict=True)]
    ladder = ladder_of(chain, encoders, evidence)
    x, d, terms = chain.data(), chain.data(), {}
    torch.manual_seed(3)
    pair = trace_pair(ProgramPair(ladder.model, ladder.guide), x, num_particles=7)
    torch.manual_seed(3)
    log_w = pyro_vae.log_weights(ladder.model, ladder.guide, x, num_particles=7)
    z = {0: x} | {t: pair.guide_sites[f"z{t}"]["value"] for t in range(1, num_layers + 1)}
    with torch.no_grad():
        terms[0] = density(x, z[1] @ chain.layers[0].weights[0].T + chain.layers[0].bias, chain.layers[0].scale)
        for t in range(1, num_layers + 1):
            encoder, said = encoders[t - 1].part, evidence[t - 1]
            d = d @ encoder.weights[0].T + encoder.bias
            seen, scale = d @ said.weights[0].T + said.bias, said.scale
            if t == num_layers:
                log_p = density(z[t], chain.layers[t].bias, chain.layers[t].scale)
                terms[t] = log_p - density(z[t], seen, scale)
                continue
            layer = chain.layers[t]
            loc = z[t + 1] @ layer.weights[0].T + layer.bias
            log_p = density(z[t], loc, layer.scale)
            # The integral of a product of two Gaussians of z is the density of one's mean under the other, their
            # variances added.
            log_q = density(z[t], seen, scale) + log_p - density(seen, loc, (scale**2 + layer.scale**2).sqrt())
            terms[t] = log_p - log_q
        for t, name in enumerate(["x", *(f"z{t}" for t in range(1, num_layers + 1))]):
            equal(pair.terms()[name].detach(), terms[t])
        equal(log_w, sum(terms.values()))
    assert log_w.std(0).min() > 0.1


@pytest.mark.parametrize("num_layers", DEPTHS)
def test_ladder_can_be_the_exact_posterior(num_layers):
    """In a scalar chain: what x says of z_t, p(x|z_t) as a density of z_t, times p(z_t|z_{t+1}), is the posterior."""
    random = torch.Generator().manual_seed(4)
    chain = LinearChain([random_affine(random, 1, 1) for _ in range(num_layers)] + [random_affine(random, 1)])
    x = chain.data()
    slope, shift, variance = numbers(1.0), numbers(0.0), numbers(0.0)  # x = slope z_t + shift + noise
    evidence = []
    for layer in chain.layers[:-1]:  # integrate out what is between x and the next z
        shift, variance = shift + slope * layer.bias.detach(), variance + slope**2 * layer.scale.detach() ** 2
        slope = slope * layer.weights[0].detach()[0]
        evidence.append(Affine((1 / slope)[None], bias=-shift / slope, scale=variance.sqrt() / slope.abs()))
    prior, last = chain.layers[-1], evidence[-1]  # at the top the ladder draws from the evidence as it is: Bayes' rule
    precision = last.scale.detach() ** -2 + prior.scale.detach() ** -2
    weight = last.weights[0].detach() * last.scale.detach() ** -2 / precision
    bias = (last.bias / last.scale**2 + prior.bias / prior.scale**2).detach() / precision
    evidence[-1] = Affine(weight, bias=bias, scale=precision.rsqrt())
    ladder = ladder_of(chain, [nn.Identity() for _ in evidence], evidence)
    log_w = pyro_vae.log_weights(ladder.model, ladder.guide, x, num_particles=6)
    equal(log_w.detach(), chain.log_p(x).expand(6, -1))


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


def test_the_double_counted_formula_is_no_bound():
    r"""z2 ~ N(0, 1), z1 ~ N(z2, 3/4), x ~ N(0.8 z1, 3/2) at x = 1; z1 ~ N(x/2, 0.7), z2 ~ N(z1/2, 3/4) as the guide.

    Subtracting Σ_t log q(z_t|z_{t-1}) for t = 1, 2 *and* KL(q(z2|z1) || p(z2)) counts the entropy of q(z2|z1) twice:
    it comes to ELBO + H[q(z2|z1)], here above log p(x).
    """
    chain = LinearChain([
        Affine(numbers([0.8]), bias=numbers(0.0), scale=numbers(1.5).sqrt()),
        Affine(numbers([1.0]), bias=numbers(0.0), scale=numbers(0.75).sqrt()),
        Affine(bias=numbers(0.0), scale=numbers(1.0)),
    ])  # fmt: skip
    posteriors = [
        Affine(numbers([0.5]), bias=numbers(0.0), scale=numbers(0.7).sqrt()),
        Affine(numbers([0.5]), bias=numbers(0.0), scale=numbers(0.75).sqrt()),
    ]
    x = numbers([1.0])

    def expected(squared, variance):
        """E log N of that variance, whose argument is off its mean by so much in mean square."""
        return -0.5 * (math.log(2 * math.pi * variance) + squared / variance)

    mean1, mean2, var1 = 0.5, 0.25, 0.7  # of z1 and z2 under the guide
    var2, cov = 0.25 * var1 + 0.75, 0.5 * var1
    log_x = expected((1 - 0.8 * mean1) ** 2 + 0.64 * var1, 1.5)  # E_q log p(x|z1)
    log_z1 = expected((mean1 - mean2) ** 2 + var1 - 2 * cov + var2, 0.75)  # E_q log p(z1|z2)
    log_z2 = expected(mean2**2 + var2, 1.0)  # E_q log p(z2)
    log_q1, log_q2 = expected(0.7, 0.7), expected(0.75, 0.75)
    kl_top = 0.5 * (0.75 + 0.25 * (mean1**2 + var1) - 1 - math.log(0.75))  # E_q KL(q(z2|z1) || p(z2))
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.75)

    all_sampled = log_x + log_z1 + log_z2 - log_q1 - log_q2
    with_top_kl = log_x + log_z1 - log_q1 - kl_top
    double_counted = log_x + log_z1 - log_q1 - log_q2 - kl_top
    log_p = chain.log_p(x).item()

    assert with_top_kl == pytest.approx(all_sampled, abs=EXACT)
    assert chain.elbo(posteriors, "bottom-up", x).item() == pytest.approx(all_sampled, abs=EXACT)
    assert double_counted == pytest.approx(all_sampled + entropy, abs=EXACT)
    assert [round(number, 3) for number in (log_p, all_sampled, double_counted)] == [-1.591, -1.721, -0.446]
    assert all_sampled < log_p < double_counted

    # The package has both of the right forms, each exact in expectation, and they differ draw by draw.
    hvae = chain.program(posteriors, "bottom-up")
    torch.manual_seed(1)
    sampled = pyro_vae.ELBO().bound(hvae.model, hvae.guide, x)
    torch.manual_seed(1)
    analytic = pyro_vae.ELBO(kl="analytic").bound(hvae.model, hvae.guide, x)
    assert (sampled - analytic).abs() > 1e-3
    num_points = chain.at_sigma_points(posteriors)
    for objective in (pyro_vae.ELBO(num_points), pyro_vae.ELBO(num_points, kl="analytic")):
        assert objective.bound(hvae.model, hvae.guide, x).item() == pytest.approx(all_sampled, abs=EXACT)


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
