"""Semi-amortised inference: where the family holds the posterior, the steps reach log p(x)."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vae
from pyro_vae import ELBO, ProgramError, refine
from tests.support.one_particle import CAT, SOFTMAX, X, programs
from tests.support.parts import IMAGE, NUM_DATA, POSTERIORS, composed
from tests.support.programs import HierarchyGuide, HierarchyModel, bits, same, weights


class Model(PyroModule):
    """z ~ N(0, I), x ~ N(W z, I / 4) with orthogonal columns of W: the posterior is diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0], [-0.5, 0.0]]))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), x.new_ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    """A poor one."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Linear(4, 2)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(self.loc(x), 1.0).to_event(1))


def test_it_reaches_log_p_where_the_family_holds_the_posterior(double):
    torch.manual_seed(0)
    model, guide, x = Model().double(), Guide().double(), torch.randn(5, 4)
    refinement = refine(model, guide, x, num_steps=600, lr=0.05, num_particles=20, progress=False)
    covariance = model.weight @ model.weight.T + 0.25 * torch.eye(4)
    log_p = torch.distributions.MultivariateNormal(torch.zeros(4), covariance).log_prob(x)
    # The steps leave noise in the parameters: Adam's last ones have the size 0.05, which costs hundredths of a nat.
    assert ((log_p - refinement.after) < 0.05).all() and (refinement.after < log_p + 5 * refinement.std_error).all()
    assert (refinement.before < log_p - 0.5).all()
    assert refinement.gap() == pytest.approx((refinement.after - refinement.before).mean().item())
    assert refinement.gap_error() == pytest.approx(refinement.std_error.norm().item() / 5)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_posterior_gains_and_nothing_else_moves(posterior):
    torch.manual_seed(0)
    vae, x = composed(posterior, "standard"), bits(NUM_DATA)
    before, generator = weights(vae), torch.get_rng_state()
    refinement = refine(vae.model, vae.guide, x, num_steps=60, lr=0.05, progress=False)
    assert refinement.gap() > 5 * refinement.gap_error()  # which a guide that learnt nothing misses once in 3 million
    assert same(weights(vae), before) and torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in vae.parameters()) and vae.training
    assert len(list(pyro.get_param_store().keys())) == 0


def test_without_a_step_of_size_it_is_the_guide(double):
    vae, x = composed("full", "standard").double(), bits(NUM_DATA).double()
    refinement = refine(vae.model, vae.guide, x, num_steps=1, lr=1e-300, progress=False)
    bounds = []
    for guide in (vae.guide, refinement.guide):
        torch.manual_seed(0)
        bounds.append(ELBO(num_particles=3).bound(vae.model, guide, x))
    torch.testing.assert_close(*bounds, rtol=1e-12, atol=0)


def test_a_hierarchy_of_ones_own():
    model, guide, x = HierarchyModel(), HierarchyGuide(), bits(6)
    refinement = refine(model, guide, x, num_steps=60, lr=0.05, progress=False)
    assert refinement.gap() > 5 * refinement.gap_error()
    assert len(refinement.guide.offsets()) == 4  # loc and scale of two layers
    log_w = pyro_vae.log_weights(model, refinement.guide, x, 50)
    assert log_w.shape == (50, 6) and torch.isfinite(log_w).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_needs_no_gradients_from_outside(double, mode):
    vae = composed("diagonal", "standard").double()
    expected = refine(vae.model, vae.guide, bits(NUM_DATA).double(), num_steps=5, progress=False)
    with mode():
        found = refine(vae.model, vae.guide, bits(NUM_DATA).double(), num_steps=5, progress=False)
        assert torch.equal(found.after, expected.after)
        again = refine(vae.model, vae.guide, (bits(NUM_DATA).double(),), num_steps=5, progress=False)
        assert torch.equal(again.after, expected.after) and not torch.is_grad_enabled()


def test_annealing_counts_nowhere(double):
    vae, x = composed("diagonal", "standard").double(), bits(NUM_DATA).double()
    pair = vae.model, vae.guide
    annealed, expected = (
        refine(*each, x, num_steps=20, lr=0.05, progress=False) for each in (pyro_vae.anneal_kl(*pair, 0.1), pair)
    )
    assert torch.equal(annealed.after, expected.after) and torch.equal(annealed.before, expected.before)


def test_data_are_refined_independently_of_each_other(double):
    vae, x = composed("diagonal", "standard").double(), bits(2).double()
    torch.manual_seed(0)
    both = refine(vae.model, vae.guide, x, num_steps=3, num_particles=2, lr=0.1, progress=False)
    assert both.guide.offsets()[0].shape == (2, 2)
    loss = ELBO().estimate(vae.model, both.guide, x).bound[0]
    gradient = torch.autograd.grad(loss, both.guide.offsets()[0])[0]
    assert (gradient[0] != 0).all() and (gradient[1] == 0).all()


@pytest.mark.parametrize("kind", [CAT, SOFTMAX])
def test_networks_that_take_no_dimension_of_particles(double, kind):
    """Draws one after the other: their mean is that of single weights, and the steps raise it."""
    pair = programs(kind).double()
    with pytest.warns(UserWarning, match="found programs that take no dimension of particles"):
        refinement = refine(pair.model, pair.guide, X, 30, lr=0.05, num_particles=5, progress=False)
    log_w = torch.cat([pyro_vae.log_weights(pair.model, pair.guide, X) for _ in range(500)])
    assert ((log_w.mean(0) - refinement.before).abs() < 5 * refinement.std_error).all()
    assert refinement.gap() > 3 * refinement.gap_error()


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_steps": 0}, "^num_steps: found 0, expected an integer of 1 or more"),
            ({"num_particles": 0}, "^num_particles: found 0, expected an integer of 1 or more"),
            ({"eval_particles": 1}, "^eval_particles: found 1, expected an integer of 2 or more"),
            ({"lr": -1.0}, "^lr: found -1.0, expected a positive number"),
        ],
    )
    def test_arguments(self, arguments, message):
        vae = composed("diagonal", "standard")
        with pytest.raises(ValueError, match=message):
            refine(vae.model, vae.guide, bits(3), **arguments)

    def test_other_data_than_it_was_made_for(self):
        vae = composed("diagonal", "standard")
        guide = refine(vae.model, vae.guide, bits(3), num_steps=1, progress=False).guide
        with pytest.raises(ValueError, match=r"^x: found the shape \(2, 4, 4\), expected the data it was made for"):
            guide(bits(2))

    def test_a_latent_that_cannot_be_moved(self):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Bernoulli(probs=x.new_full((2,), 0.5)).to_event(1))

        with pytest.raises(
            ProgramError, match="^site 'z': found .*, expected a distribution with rsample, to be refined"
        ):
            refine(Model(), guide, torch.zeros(3, 4), progress=False)

    def test_parameters_that_cannot_be_moved(self):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Delta(x.new_zeros(len(x), 2), log_density=1.0).to_event(1))

        with pytest.raises(
            ProgramError, match="^site 'z': found .*, expected a distribution whose parameters can be moved: Cannot"
        ):
            refine(Model(), guide, torch.zeros(3, 4), progress=False)


def test_one_bound_is_the_mean_of_many_weights(double):
    """The two bounds are ELBOs: means of log weights, with the error that their spread gives."""
    vae, x = composed("diagonal", "standard").double(), bits(NUM_DATA).double()
    refinement = refine(vae.model, vae.guide, x, num_steps=1, lr=1e-300, eval_particles=4_000, progress=False)
    log_w = pyro_vae.log_weights(vae.model, vae.guide, x, 4_000)
    error = math.sqrt(2) * log_w.std(0) / 4_000**0.5
    torch.testing.assert_close(refinement.std_error, error, rtol=0.1, atol=0)
    assert ((refinement.before - log_w.mean(0)).abs() < 5 * error).all()
    assert refinement.before.shape == refinement.after.shape == (NUM_DATA,) and x.shape[1:] == IMAGE
