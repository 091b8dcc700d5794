"""The three schedules of temperatures against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vae.evaluation.temperatures import temperatures

SCHEDULES = ["linear", "geometric", "sigmoid"]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


FORMULAS = {
    "linear": lambda t: t,
    "geometric": lambda t: (1000**t - 1) / 999,
    "sigmoid": lambda t: (sigmoid(4 * (2 * t - 1)) - sigmoid(-4)) / (sigmoid(4) - sigmoid(-4)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("number", [1, 2, 7, 1000])
def test_values_are_those_of_the_formula(schedule, number):
    found = temperatures(schedule, number)
    expected = torch.tensor([FORMULAS[schedule](t / number) for t in range(number + 1)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert found[0] == 0.0 and found[-1] == 1.0  # exactly: the weights would have another mean
    assert (found.diff() > 0).all()


def test_the_geometric_increments_are_a_geometric_series():
    increments = temperatures("geometric", 100).diff()
    torch.testing.assert_close(increments[1:] / increments[:-1], torch.full((99,), 1000**0.01).double())


def test_the_sigmoid_is_symmetric_and_slow_at_both_ends():
    found = temperatures("sigmoid", 50)
    torch.testing.assert_close(found + found.flip(0), torch.ones(51).double())
    assert found.diff()[0] < 0.2 * found.diff()[25]
