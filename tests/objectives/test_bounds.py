"""The value of every bound: against formulas written anew, over all draws of a discrete latent, in theory's order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae import CIWAE, ELBO, IWAE, MIWAE, PIWAE, RenyiBound, ReweightedWakeSleep
from tests.support.discrete import Discrete
from tests.support.every_objective import BOUNDS, EXTREMES, GRADIENTS, WAKE_SLEEP
from tests.support.linear_gaussian import PPCA

K = 6


def power_mean(w: np.ndarray, alpha: float) -> np.ndarray:
    return np.log((w ** (1 - alpha)).mean(0)) / (1 - alpha)


FORMULAS = {
    "ELBO": lambda w: np.log(w).mean(0),
    "IWAE": lambda w: np.log(w.mean(0)),
    "MIWAE": lambda w: (np.log(w[:3].mean(0)) + np.log(w[3:].mean(0))) / 2,
    "PIWAE": lambda w: np.log(w.mean(0)),
    "CIWAE": lambda w: 0.3 * np.log(w).mean(0) + 0.7 * np.log(w.mean(0)),
    "Renyi(0.5)": lambda w: power_mean(w, 0.5),
    "Renyi(-1)": lambda w: power_mean(w, -1.0),
    "Renyi(2)": lambda w: power_mean(w, 2.0),
    "VR-max": lambda w: np.log(w).max(0),
    "VR-min": lambda w: np.log(w).min(0),
    "wake-sleep": lambda w: np.log(w).mean(0),
    "reweighted": lambda w: np.log(w.mean(0)),
    "reweighted, wake": lambda w: np.log(w.mean(0)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_given_the_draws(name, vae, x):
    torch.manual_seed(3)
    w = pyro_vae.log_weights(vae.model, vae.guide, x, K).exp().detach().numpy()
    make = (BOUNDS | EXTREMES | WAKE_SLEEP)[name]
    for gradient in GRADIENTS if name in BOUNDS else ["reparam"]:
        objective = make(K) if name in WAKE_SLEEP else make(K, gradient=gradient)
        torch.manual_seed(3)
        estimate = objective.estimate(vae.model, vae.guide, x)
        expected = FORMULAS[name](w)
        np.testing.assert_allclose(estimate.bound.detach().numpy(), expected, rtol=0, atol=1e-10)
        assert torch.equal(estimate.true_bound, estimate.bound)
        assert estimate.loss.item() == pytest.approx(-expected.sum(), abs=1e-9)


def test_every_bound_has_a_formula():
    assert FORMULAS.keys() == {**BOUNDS, **EXTREMES, **WAKE_SLEEP}.keys()


@pytest.mark.parametrize("name", BOUNDS)
def test_mean_over_all_draws_of_a_discrete_latent(name):
    """The mean of the bound over all K-tuples of states, each with its probability, against one written out."""
    discrete = Discrete(num_particles=4)
    objective = BOUNDS[name](4)
    bound = objective.bound(discrete.model, discrete.guide, discrete.x)
    expected = sum(
        np.prod([discrete.q[state] for state in states]) * FORMULAS_4[name](discrete.w[list(states)][:, None]).item()
        for states in discrete.tuples
    )
    assert (discrete.probability * bound).sum().item() == pytest.approx(expected, abs=1e-12)


FORMULAS_4 = FORMULAS | {"MIWAE": lambda w: (np.log(w[:2].mean(0)) + np.log(w[2:].mean(0))) / 2}


@pytest.mark.parametrize(
    "rising",
    [
        [ELBO(), IWAE(2), IWAE(8)],  # more particles are tighter
        [RenyiBound(2.0, 8), ELBO(8), CIWAE(0.5, 8), MIWAE(2, 4), IWAE(8)],
    ],
    ids=["particles", "kinds"],
)
def test_order_of_the_bounds(rising):
    """In the mean, each step by many standard errors, and all of them below log p(x), on a rotated linear VAE."""
    ppca = PPCA.of(angle=math.pi / 4)
    x = ppca.x[:1].expand(20_000, 6)  # independent estimates of one and the same bound
    means, errors = [], []
    for objective in rising:
        with torch.no_grad():
            bound = objective.bound(ppca.vae.model, ppca.vae.guide, x)
        means.append(bound.mean().item())
        errors.append(bound.std().item() / math.sqrt(len(x)))
    means.append(ppca.log_p()[0].item())
    errors.append(0.0)
    for lower, upper, e1, e2 in zip(means, means[1:], errors, errors[1:], strict=False):
        assert upper - lower > 4.5 * math.hypot(e1, e2)  # a false alarm in 150,000 runs, were they equal
    elbo = next(index for index, objective in enumerate(rising) if isinstance(objective, ELBO))
    assert means[elbo] == pytest.approx(ppca.exact_elbo()[0].item(), abs=5 * errors[elbo])


def test_combination_with_no_share_of_the_elbo_takes_weights_of_zero():
    log_w = torch.tensor([[0.5], [-math.inf]])
    torch.testing.assert_close(CIWAE(0.0, 2).reduce(log_w), IWAE(2).reduce(log_w))
    assert CIWAE(0.1, 2).reduce(log_w) == -math.inf


def test_renyi_bound_falls_in_alpha_for_every_draw():
    log_w = 3 * torch.randn(7, 100, dtype=torch.float64)
    alphas = [-math.inf, -3.0, -0.5, 0.0, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 2.0, math.inf]
    bounds = [RenyiBound(alpha, 7).reduce(log_w) for alpha in alphas]
    for higher, lower in itertools.pairwise(bounds):
        assert (higher >= lower - 1e-12).all()
    torch.testing.assert_close(bounds[6], ELBO(7).reduce(log_w), rtol=0, atol=0)
    torch.testing.assert_close(bounds[3], IWAE(7).reduce(log_w), rtol=0, atol=1e-12)
    torch.testing.assert_close(bounds[0], log_w.max(0).values, rtol=0, atol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0])
def test_renyi_bound_keeps_its_digits_near_one(dtype, tolerance, distance, spread):
    """log-sum-exp alone loses them: of |ℓ| (1 - α) it keeps 1e-7, and divides that by 1 - α."""
    log_w = (spread * torch.randn(9, 50, dtype=torch.float64) - 90).to(dtype)
    alpha = 1 - distance
    exact = log_w.double()
    center = exact.max(0).values
    high = [np.longdouble(value) for value in ((exact - center) * distance).T.flatten().tolist()]
    sums = np.exp(np.array(high, dtype=np.longdouble)).reshape(50, 9).mean(1)
    expected = (np.log(sums) / np.longdouble(distance)).astype(float) + center.numpy()
    found = RenyiBound(alpha, 9).reduce(log_w).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(spread, 1.0) * 10)


@pytest.mark.parametrize("name", BOUNDS | EXTREMES)
def test_equal_weights_are_their_own_bound(name):
    log_w = torch.tensor([-3.0, 0.0, 700.0, -700.0], dtype=torch.float64).expand(4, 4)
    torch.testing.assert_close((BOUNDS | EXTREMES)[name](4).reduce(log_w), log_w[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MIWAE(0, 5), r"num_batches: found 0, expected a positive integer"),
        (lambda: MIWAE(2, 0), r"num_particles: found 0, expected a positive integer"),
        (lambda: CIWAE(1.5, 5), r"beta: found 1.5, expected a number in \[0, 1\]"),
        (lambda: RenyiBound(math.nan, 5), r"alpha: found nan, expected a number"),
        (
            lambda: RenyiBound(-math.inf, 5, gradient="dreg"),
            r"gradient: found 'dreg' beside alpha=-inf, .* no smooth bound",
        ),
        (lambda: RenyiBound("1", 5), r"alpha: found '1', expected a number"),
        (lambda: ReweightedWakeSleep(1), r"num_particles: found 1, expected 2 or more"),
        (lambda: ReweightedWakeSleep(5, guide_phase="dream"), r"guide_phase: found 'dream', .*'wake', 'sleep', 'both'"),
        (lambda: IWAE(5, gradient="score"), r"gradient: found 'score', expected one of 'reparam', 'stl', 'dreg'"),
        (lambda: ELBO(free_bits=-1.0), r"free_bits: found -1.0, expected a finite number, 0 or more"),
        (lambda: ELBO(free_bits=1.0, free_bits_per="layer"), r"free_bits_per: found 'layer', .*'site', 'unit'"),
        (lambda: ELBO(capacity=math.inf), r"capacity: found inf"),
        (lambda: ELBO(capacity=1.0, free_bits=1.0), r"free_bits: found 1.0 beside capacity=1.0"),
        (lambda: IWAE(5, max_plate_nesting=0), r"max_plate_nesting: found 0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "objective, text",
    [
        (MIWAE(2, 3), "MIWAE(num_batches=2, num_particles=3)"),
        (PIWAE(2, 3, gradient="dreg"), "PIWAE(num_batches=2, num_particles=3, gradient='dreg')"),
        (RenyiBound(0.5, 3), "RenyiBound(alpha=0.5, num_particles=3)"),
        (ELBO(free_bits=0.5), "ELBO(free_bits=0.5, free_bits_per='site', num_particles=1)"),
        (
            ELBO(kl="analytic", capacity=2.0),
            "ELBO(kl='analytic', capacity=2.0, capacity_weight=1000.0, num_particles=1)",
        ),
        (ReweightedWakeSleep(5), "ReweightedWakeSleep(guide_phase='both', num_particles=5)"),
    ],
)
def test_repr_says_how_it_was_made(objective, text):
    assert repr(objective) == text
    assert MIWAE(2, 3).total_particles == 6
