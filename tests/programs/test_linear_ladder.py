"""The ladder of linear Gaussian layers: held to closed forms, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from tests.support.exact import DEPTHS, EXACT, density, equal, numbers
from tests.support.linear_chains import Affine, LinearChain, random_affine


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
