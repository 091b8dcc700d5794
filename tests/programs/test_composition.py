"""Any posterior with any prior, likelihood, network and objective: any two of them meet, and in the full cross all."""

from __future__ import annotations

import gc
import warnings
from itertools import product

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae import ELBO, IWAE
from pyro_vae.training.step import CompiledStep
from tests.support.pairwise import all_pairs
from tests.support.parts import IMAGE, LATENT_DIM, LIKELIHOODS, NETWORKS, NUM_DATA, POSTERIORS, PRIORS, composed, data
from tests.support.programs import check_close, traced, weights

OBJECTIVES = {
    "ELBO": ELBO(),
    "IWAE": IWAE(num_particles=2),
    "STL": ELBO(gradient="stl"),
    "DReG": IWAE(num_particles=2, gradient="dreg"),
}
PAIRS = [(posterior, prior) for posterior in POSTERIORS for prior in PRIORS]
every_pair = pytest.mark.parametrize(("posterior", "prior"), PAIRS)
PARTS = ("posterior", "prior", "likelihood", "network", "objective")


@pytest.fixture
def unchecked():
    """Without the checks of each distribution, as ``fit`` runs."""
    with pyro.validation_enabled(False):
        yield


def check_step(vae, x, objective, what):
    """Hold a bound and its gradient to be whole, and return the names of the parameters that the gradient moves."""
    names, parameters = zip(*vae.named_parameters(), strict=True)
    loss, bound, _ = OBJECTIVES[objective].estimate(vae.model, vae.guide, x)
    assert (bound.shape, bound.dtype, bound.device) == ((NUM_DATA,), torch.float32, x.device), what
    assert torch.isfinite(bound).all(), what
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient is not None and torch.isfinite(gradient).all(), f"{what}: {name}"
    return {name for name, gradient in zip(names, gradients, strict=True) if (gradient != 0).any()}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(PARTS, all_pairs(POSTERIORS, PRIORS, LIKELIHOODS, NETWORKS, OBJECTIVES))
def test_bound_and_gradient_of_any_two_parts(posterior, prior, likelihood, network, objective, device):
    """Each part of a kind with each of another kind; few data may leave a rectified unit off, but not of three VAEs."""
    x, moved = data(likelihood).to(device), set()
    for _ in range(3):
        vae = composed(posterior, prior, likelihood, network).to(device)
        moved |= check_step(vae, x, objective, "the step")
        seen = {name for name, _ in vae.named_parameters()}
        if seen == moved:
            break
    assert seen == moved


@pytest.mark.cross
@pytest.mark.usefixtures("unchecked")
@every_pair
def test_bound_and_gradient_of_every_combination(posterior, prior, device):
    seen, moved = set(), set()  # parameters: so few data may leave a rectified unit off, but all of these do not
    for likelihood, network in product(LIKELIHOODS, NETWORKS):
        vae = composed(posterior, prior, likelihood, network).to(device)
        seen |= {(network, name) for name, _ in vae.named_parameters()}
        for objective in OBJECTIVES:
            what = f"{likelihood}, {network}, {objective}"
            moved |= {(network, name) for name in check_step(vae, data(likelihood).to(device), objective, what)}
    assert seen == moved


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.cross) for turn in (1, 2))])
@every_pair
def test_files_hold_it(posterior, prior, turn, tmp_path):
    """With one likelihood or three, so that of these each meets ten pairs or more."""
    i = PAIRS.index((posterior, prior)) + turn
    likelihood, network = LIKELIHOODS[i % len(LIKELIHOODS)], NETWORKS[i % 2]
    vae = composed(posterior, prior, likelihood, network)
    pyro_vae.save(vae, tmp_path)
    again = pyro_vae.load(tmp_path)
    before, after = weights(vae), weights(again)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    bounds = []
    for each in (vae, again):
        torch.manual_seed(0)
        bounds.append(ELBO().bound(each.model, each.guide, data(likelihood)))
    assert torch.equal(*bounds)


@every_pair
def test_particles_and_double_precision(posterior, prior):
    vae = composed(posterior, prior, "gaussian").double()
    log_w = pyro_vae.log_weights(vae.model, vae.guide, data("gaussian").double(), num_particles=3)
    assert (log_w.shape, log_w.dtype) == ((3, NUM_DATA), torch.float64)
    assert torch.isfinite(log_w).all() and len(log_w.unique()) == 3 * NUM_DATA
    assert vae.sample(3).shape == (3, *IMAGE) and vae.sample(2, mean=True).dtype == torch.float64
    x = data("gaussian").double()
    assert vae.encode(x).shape == (NUM_DATA, LATENT_DIM) and vae.reconstruct(x).shape == x.shape


def test_no_tensor_outlives_a_step_of_any_posterior():
    """One that did would be counted again at each step."""
    programs, x = [composed(posterior, "vamp") for posterior in POSTERIORS], data("bernoulli")

    def tensors_after(num_steps):
        for vae, objective in product(programs, (OBJECTIVES["ELBO"], OBJECTIVES["DReG"])):
            for _ in range(num_steps):
                objective.differentiable_loss(vae.model, vae.guide, x).backward()
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    assert tensors_after(2) == tensors_after(5)


# Tracing takes a second, so that each posterior meets two priors, of which one in `make test`, and each part of another
# kind several of these.
COMPILED = [
    (*pair, LIKELIHOODS[i % len(LIKELIHOODS)], NETWORKS[i % 2], list(OBJECTIVES)[i // 2 % 4])
    for i, pair in enumerate(pair for j, pair in enumerate(PAIRS) if (j // 5 + j % 5) % 5 in (0, 2))
]
CASES = [
    case if (i // 2 + i) % 2 == 0 else pytest.param(*case, marks=pytest.mark.cross) for i, case in enumerate(COMPILED)
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("posterior", "prior", "likelihood", "network", "objective"), CASES)
def test_compiled_equals_eager(posterior, prior, likelihood, network, objective):
    """The graph of the step against the step, on the same draws; not through the compiler, which is others' tests."""
    vae, x = composed(posterior, prior, likelihood, network).double(), data(likelihood).double()
    step = CompiledStep(vae.model, vae.guide, vae, OBJECTIVES[objective], lower=traced)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gradients(step, vae, x)
    assert step.gradients.num_traces == 1 and step.gradients.reason is None
    check_close(found, gradients(step.eager, vae, x), rtol=1e-8, atol=1e-9)


def gradients(step, vae, x):
    torch.manual_seed(4)
    bounds = step(x)
    return {name: p.grad for name, p in vae.named_parameters()} | {"bounds": bounds}
