r"""A transition leaves its target as it is and is in detailed balance with it, held by statistical tests.

The target is Gaussian, with noise of two dimensions and a log weight that is quadratic in it,

.. math:: \log w = -\tfrac12 (\epsilon - c)^\top Q (\epsilon - c), \qquad
          f_\beta = \mathcal N\bigl(\beta P^{-1} Q c, P^{-1}\bigr), \quad P = I + \beta Q ,

so that it can be drawn from. Started there, the next state u' of a state u has the same distribution as u, and

.. math:: \mathbb E[g(u)\, h(u')] = \mathbb E[h(u)\, g(u')] \quad \text{for all } g, h .
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pyro_vae.evaluation import hamiltonian
from pyro_vae.evaluation.hamiltonian import log_target, transition
from pyro_vae.inference.noise_space import Point

Q = torch.tensor([[3.0, 1.2], [1.2, 1.0]], dtype=torch.float64)
C = torch.tensor([1.0, -0.5], dtype=torch.float64)
K, BETA = 30_000, 0.6
SIZES = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64)  # of three data: most moves are accepted, half, and few
ALARM = 4.9  # standard errors: 1e-6 for one statement, 1e-4 for all of them
FUNCTIONS = {
    "first": lambda u: u[..., 0],
    "second squared": lambda u: u[..., 1].square(),
    "product": lambda u: u[..., 0] * u[..., 1],
    "far": lambda u: (u[..., 0] > 0.3).double(),
    "sine": lambda u: torch.sin(2 * u[..., 0] + u[..., 1]),
}


def evaluate(noise):
    away = noise - C
    log_noise = -0.5 * noise.square().sum(-1) - math.log(2 * math.pi)
    return Point(noise, log_noise, -0.5 * (away @ Q * away).sum(-1), -noise, -away @ Q)


def exact():
    """The mean and the covariance of the target."""
    covariance = (torch.eye(2).double() + BETA * Q).inverse()
    return BETA * covariance @ Q @ C, covariance


def moved(num_steps=3):
    """Exact draws of the target, where one transition takes them, and with which probability."""
    mean, covariance = exact()
    start = mean + torch.randn(K, len(SIZES), 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    point, probability = transition(evaluate(start), evaluate, BETA, SIZES, num_steps)
    return start, point, probability


def scores(values):
    """Means of ``(K, B)`` in their standard errors."""
    return (values.mean(0) / (values.std(0) / math.sqrt(len(values)))).abs()


def moment_scores(after):
    mean, covariance = exact()
    away = after - mean
    products = torch.stack([away[..., 0] ** 2, away[..., 1] ** 2, away[..., 0] * away[..., 1]])
    expected = torch.stack([covariance[0, 0], covariance[1, 1], covariance[0, 1]])
    statements = [*away.unbind(-1), *(products - expected[:, None, None])]
    return torch.stack([scores(each) for each in statements])


def balance_scores(before, after):
    pairs = itertools.combinations(FUNCTIONS.values(), 2)
    return torch.stack([scores(g(before) * h(after) - h(before) * g(after)) for g, h in pairs])


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_transition_leaves_its_target_and_is_reversible(num_steps):
    before, point, probability = moved(num_steps)
    acceptance = probability.mean(0)
    assert acceptance[0] > 0.9 and acceptance[-1] < 0.6  # the last shows that the accept step is what holds it
    assert moment_scores(point.noise).max() < ALARM
    assert balance_scores(before, point.noise).max() < ALARM


def test_without_the_accept_step_the_tests_fail(monkeypatch):
    """They are sharp enough to see it."""
    monkeypatch.setattr(hamiltonian, "_where", lambda chosen, first, second: first)
    before, point, _ = moved()
    assert moment_scores(point.noise).max() > 3 * ALARM
    monkeypatch.undo()
    monkeypatch.setattr(hamiltonian, "_kinetic", lambda momentum: 0.0)  # nor with half of the ratio
    before, point, _ = moved()
    assert max(moment_scores(point.noise).max(), balance_scores(before, point.noise).max()) > 3 * ALARM


def test_a_wrong_gradient_costs_moves_and_no_exactness():
    """A proposal stays reversible and keeps volumes whatever the force is, so the target stays."""

    def wrong(noise):
        point = evaluate(noise)
        return point._replace(w_gradient=0.3 * point.w_gradient.roll(1, -1))

    mean, covariance = exact()
    start = mean + torch.randn(K, 3, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    point, probability = transition(wrong(start), wrong, BETA, SIZES, 3)
    assert probability.mean() < 0.8
    assert moment_scores(point.noise).max() < ALARM
    assert balance_scores(start, point.noise).max() < ALARM


def test_what_is_accepted_is_accepted_with_its_densities():
    before, point, probability = moved()
    for found, expected in zip(point, evaluate(point.noise), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    stays = (point.noise == before).all(-1)
    assert (stays.double().mean(0) - (1 - probability.mean(0))).abs().max() < ALARM * 0.5 / math.sqrt(K)


def test_small_steps_conserve_the_energy_to_second_order():
    """So the mean of 1 - acceptance is proportional to the square of the step, at one length of the trajectory."""
    mean, covariance = exact()
    start = mean + torch.randn(K, 1, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    lost = [
        1 - transition(evaluate(start), evaluate, BETA, torch.tensor([0.8 / n]).double(), n)[1].mean() for n in (8, 16)
    ]
    assert 3.6 < lost[0] / lost[1] < 4.4
    assert lost[1] < 0.01


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_proposal_without_a_density_is_refused(bad):
    """Where a decoder overflows, or a density is zero, a particle stays; so does the truncated target."""

    def cut(noise):
        point = evaluate(noise)
        inside = noise[..., 0] < 0.5
        return point._replace(log_w=torch.where(inside, point.log_w, bad))

    mean, covariance = exact()
    draws = mean + torch.randn(4 * K, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    start = draws[draws[:, 0] < 0.5][: K // 2, None]
    point, probability = transition(cut(start), cut, BETA, torch.tensor([0.6]).double(), 3)
    assert (point.noise[..., 0] < 0.5).all() and not probability.isnan().any()
    assert balance_scores(start, point.noise).max() < ALARM
    again = draws[draws[:, 0] < 0.5][K // 2 :, None]
    for index in (0, 1):  # a truncated Gaussian is again one
        change = point.noise[..., index].mean() - again[..., index].mean()
        error = math.sqrt(point.noise[..., index].var() / len(start) + again[..., index].var() / len(again))
        assert abs(change) < ALARM * error


def test_the_target_is_in_float64():
    point = Point(*(torch.full((1, 1), value) for value in (0.0, -1e4, -3e4, 0.0, 0.0)))
    assert log_target(point, 0.1).dtype is torch.float64
    assert log_target(point, 0.1).item() == pytest.approx(-13000, abs=1e-9)
