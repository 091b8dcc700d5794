"""Thresholds of scores: the order statistics by hand, and the rate of false alarms by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae import Threshold, threshold


@pytest.mark.parametrize(
    ("n", "rate", "k"),
    [
        (99, 0.05, 5),
        (100, 0.05, 5),
        (98, 0.05, 4),
        (19, 0.05, 1),
        (99, 0.07, 7),
        (99, 0.29, 29),
        (1, 0.5, 1),
        (9, 0.99, 9),
    ],
)
def test_it_is_the_order_statistic_of_conformal_prediction(n, rate, k):
    scores = torch.randn(n, generator=torch.Generator().manual_seed(n))
    found = threshold(scores, rate)
    assert found.value == scores.double().sort().values[k - 1]
    assert found.false_alarm_rate == k / (n + 1) <= rate
    assert found.rate_spread == pytest.approx(math.sqrt(k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2))))
    of_minus = math.ceil(round((n + 1) * (1 - rate), 9))  # the rank among -scores, in the words of conformal prediction
    assert -found.value == (-scores.double()).sort().values[of_minus - 1]


def test_the_rate_of_false_alarms_is_that_of_the_formula():
    n, runs, rate = 39, 20_000, 0.1
    uniform = torch.rand(runs, n + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [threshold(scores, rate) for scores in uniform[:2000, :n]]
    values = uniform[:, :n].sort().values[:, 3]  # k = 4
    assert torch.equal(values[:2000], torch.tensor([each.value for each in found], dtype=torch.float64))
    one = found[0]
    assert one.false_alarm_rate == rate
    alarms = (uniform[:, n] < values).double()
    assert abs(alarms.mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / runs)
    # Of uniform scores the rate, given the data, is the threshold itself.
    assert abs(values.mean() - rate) < 4 * one.rate_spread / math.sqrt(runs)
    assert abs(values.std() / one.rate_spread - 1) < 4 / math.sqrt(runs)


def test_with_equal_scores_there_are_fewer_alarms():
    found = threshold(np.zeros(50), 0.2)
    assert found.value == 0 and not found.is_anomaly(np.zeros(5)).any()


def test_what_is_an_anomaly():
    limit = Threshold(1.0, 0.05, 0.01)
    scores = [-math.inf, 0.9, 1.0, 2.0, math.nan]
    assert limit.is_anomaly(torch.tensor(scores)).tolist() == [True, True, False, False, True]
    assert threshold(torch.tensor([-math.inf, 1.0, 2.0]), 0.5).value == 1.0


def test_an_array_of_numpy_gives_one():
    scores = np.array([-math.inf, 0.9, 1.0, math.nan])
    found = Threshold(1.0, 0.05, 0.01).is_anomaly(scores)
    assert isinstance(found, np.ndarray) and found.dtype == np.bool_
    assert found.tolist() == [True, True, False, True] and scores[found].shape == (3,)


def test_results_of_scoring_are_taken_as_their_values():
    vae = pyro_vae.VAE((4,), 2, (4,))
    x = torch.bernoulli(torch.full((20, 4), 0.5), generator=torch.Generator().manual_seed(0))
    for function in (pyro_vae.score, pyro_vae.log_likelihood):
        found = function(vae.model, vae.guide, x, num_particles=5, seed=0)
        assert threshold(found, 0.1) == threshold(found.values, 0.1)
        limit = threshold(found, 0.3)
        assert torch.equal(limit.is_anomaly(found), limit.is_anomaly(found.values))


def test_other_objects_are_named_in_short():
    with pytest.raises(TypeError, match="^scores: found list, expected a tensor or an array of scores .{0,120}$"):
        threshold([0.0] * 100)


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        (torch.zeros(18), 0.05, "scores: found 18, expected at least 19 for a false_alarm_rate of 0.05"),
        (torch.zeros(0), 0.5, "scores: found 0, expected at least 1 for"),
        (torch.tensor([0.0, math.nan]), 0.5, "scores: found NaN at index 1, expected numbers"),
        (torch.zeros(100, 2), 0.05, r"scores: found the shape \(100, 2\), expected \(N,\), a score of each datum"),
        (np.zeros((100, 1)), 0.05, r"scores: found the shape \(100, 1\), expected \(N,\), a score of each datum"),
        (torch.zeros(10), 1.0, r"false_alarm_rate: found 1.0, expected a number in \(0, 1\)"),
    ],
)
def test_what_is_refused(scores, rate, message):
    with pytest.raises(ValueError, match=message):
        threshold(scores, rate)
