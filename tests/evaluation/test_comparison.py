"""Paired comparison: against SciPy, by hand, and on models whose difference is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_vae
from pyro_vae import LogLikelihood, compare
from tests.support.linear_gaussian import PPCA


def scored(values, std_error=0.1, khat=0.2):
    values = torch.as_tensor(values, dtype=torch.float64)
    full = torch.full_like(values, 1.0)
    return LogLikelihood(values, std_error * full, 100 * full, khat * full)


def test_four_data_by_hand():
    # d = 2, 0, -1, 3: mean 1, sum of squares around it 10, so sd² = 10 / 3 and se² = 10 / 12.
    a, b = scored([1.0, 2.0, 3.0, 4.0], std_error=0.3), scored([-1.0, 2.0, 4.0, 1.0], std_error=0.4)
    comparison = compare(a, b)
    assert comparison.differences.tolist() == [2.0, 0.0, -1.0, 3.0] and comparison.mean == 1.0
    assert comparison.std_error == pytest.approx(math.sqrt(10 / 12), rel=1e-14)
    assert comparison.monte_carlo_error == pytest.approx(0.5 / 2, rel=1e-14)  # √(4 (0.09 + 0.16)) / 4
    assert comparison.means == (2.5, 1.5)
    assert (comparison.num_first_better, comparison.num_second_better) == (2, 1)


def test_against_scipy():
    generator = np.random.default_rng(0)
    a = generator.normal(-84.6, 20, 150)
    b = a - generator.normal(0.2, 1, 150)
    comparison, paired = compare(a, torch.from_numpy(b)), stats.ttest_rel(a, b)
    assert comparison.mean / comparison.std_error == pytest.approx(paired.statistic, rel=1e-12)
    assert comparison.p_value == pytest.approx(paired.pvalue, rel=1e-12)
    other = compare(b, a)
    assert (other.mean, other.std_error, other.p_value) == (-comparison.mean, comparison.std_error, comparison.p_value)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 101, 5000])
def test_p_values_of_few_and_of_many_data(n):
    """A mean of t standard errors, exactly."""
    d = torch.arange(n, dtype=torch.float64)
    d = (d - d.mean()) / d.std() * n**0.5  # mean 0, standard error 1
    for t in (1e-6, 0.3, 0.999, 1.001, 1.96, 6.0, 40.0):
        comparison = compare(d + t, torch.zeros(n))
        expected = 2 * stats.t.sf(comparison.mean / comparison.std_error, n - 1)
        assert comparison.p_value == pytest.approx(expected, rel=1e-10, abs=1e-280)


@pytest.mark.parametrize("n", [2, 5])
def test_equal_models_are_told_apart_in_five_of_a_hundred_cases(n):
    d = torch.randn(4_000, n, dtype=torch.float64)
    share = np.mean([compare(each, torch.zeros(n)).p_value < 0.05 for each in d])
    assert abs(share - 0.05) < 5 * math.sqrt(0.05 * 0.95 / 4_000)


def test_two_errors_of_the_interval_cover_the_difference():
    """Of 4,000 intervals d̄ ± 1.96 se of 100 data, as many hold the true mean as Student's t says.

    Five binomial standard errors are missed once in two million.
    """
    a = -84 + 20 * torch.randn(4_000, 100, dtype=torch.float64)
    b = a - 0.2 + torch.randn(4_000, 100, dtype=torch.float64)
    found = [compare(*pair) for pair in zip(a, b, strict=True)]
    covered = np.mean([abs(each.mean - 0.2) < 1.96 * each.std_error for each in found])
    expected = 1 - 2 * stats.t.sf(1.96, 99)
    assert abs(covered - expected) < 5 * math.sqrt(expected * (1 - expected) / 4_000)


def test_two_estimates_of_one_model_are_equal_and_those_of_two_models_are_not():
    """The exact log p(x) of probabilistic PCA: a decoder with larger weights loses what the formula says."""
    good, x = PPCA.of(), PPCA.of().x
    worse = PPCA.of()
    with torch.no_grad():
        worse.vae.likelihood.network.output.weight.mul_(1.25)  # whose posterior is narrower than the guide
    covariance = 1.25**2 * good.weights @ good.weights.T + good.variance * torch.eye(6, dtype=torch.float64)
    expected = (
        good.log_p() - torch.distributions.MultivariateNormal(covariance.new_zeros(6), covariance).log_prob(x)
    ).mean()
    pairs = [(p.vae.model, p.vae.guide) for p in (good, worse)]
    first, second = (pyro_vae.log_likelihood(*pair, x, 1000, seed=seed) for seed, pair in enumerate(pairs))
    comparison = compare(first, second)
    assert abs(comparison.mean - expected) < 5 * comparison.monte_carlo_error < 0.1
    assert comparison.p_value < 1e-6 and str(comparison).startswith("The first is better by 0.")
    again = pyro_vae.log_likelihood(*pairs[0], x, 1000, seed=2)
    assert abs((same := compare(first, again)).mean) <= 5 * same.monte_carlo_error


class TestSentence:
    def test_neither_is_better(self):
        assert str(compare(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 0.25, 0.0]))) == (
            "Neither is better: the first leads by 0.08 ± 0.55 nats (p = 0.89), 0.50 against 0.42; it is better on "
            "2 of 3 data, the second on 1"
        )

    def test_the_second_is_better(self):
        text = str(compare(scored([1.0, 1.0, 1.0]), scored([2.0, 2.0, 2.5])))
        assert text == (
            "The second is better by 1.17 ± 0.17 nats (p = 0.02, 0.082 of it Monte Carlo), 2.17 against 1.00; "
            "it is better on 3 of 3 data, the first on 0"
        )

    def test_a_mark_is_repeated_for_its_side(self):
        good, heavy = scored([1.0, 2.0]), scored([1.0, 3.0], khat=0.9)
        assert compare(good, heavy).caveats == (f"The second: {heavy.caveat()}",)
        assert str(compare(heavy, heavy)).splitlines()[1:] == [
            f"The {which}: {heavy.caveat()}" for which in ("first", "second")
        ]

    def test_unequal_numbers_of_particles_are_named(self):
        few, many = scored([1.0, 2.0]), scored([1.5, 2.0])
        few.num_particles, many.num_particles = 5, 50
        assert compare(many, few).caveats == (
            "The first has 50 particles, the second 5: the estimate by fewer is the lower one",
        )
        assert compare(few, few).caveats == compare(few, torch.zeros(2)).caveats == ()

    def test_equal_values(self):
        same, more = compare(scored([1.0, 2.0]), scored([1.0, 2.0])), compare(scored([2.0, 3.0]), scored([1.0, 2.0]))
        assert (same.p_value, more.p_value) == (1.0, 0.0)

    def test_values_alone_tell_no_monte_carlo_error(self):
        comparison = compare(torch.zeros(3), scored([1.0, 2.0, 3.0]))
        assert math.isnan(comparison.monte_carlo_error) and "Monte Carlo" not in str(comparison)


def test_data_of_other_sizes_are_refused():
    pairs = [(pyro_vae.VAE(data_shape=(size,), latent_dim=2, hidden_dims=(4,)), torch.ones(3, size)) for size in (4, 9)]
    first, second = (pyro_vae.log_likelihood(vae.model, vae.guide, x, 5, seed=0) for vae, x in pairs)
    with pytest.raises(ValueError, match="^second: found data of 9 dimensions, expected those of the first, 4$"):
        compare(first, second)


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(4), ValueError, "^second: found 4 data, expected as many as the first has, 3$"),
        (torch.zeros(1), torch.zeros(1), ValueError, "^first: found 1 datum, expected 2 or more$"),
        (torch.zeros(3), torch.zeros(3, 1), ValueError, r"^second: found shape \(3, 1\), expected \(N,\), a value of"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), ValueError, r"^first: found nan at index \(1,\) of shape"),
        (
            -84.6,
            torch.zeros(3),
            TypeError,
            "^first: found float, expected an Evaluation, a LogLikelihood, or a",
        ),
        (torch.zeros(3), (1.0, 2.0), TypeError, "^second: found tuple, expected an Evaluation"),
    ],
)
def test_what_is_refused(first, second, error, message):
    with pytest.raises(error, match=message):
        compare(first, second)
