"""Scales and masks where they are awkward: of a second observed site, of each datum, in one program of the two."""

from __future__ import annotations

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import ELBO, IWAE, ProgramError, anneal_kl, log_weights
from pyro_vae.data.batch import Arguments
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.schedules import Linear
from tests.support.fixed_noise import K, Layout, data, pair
from tests.support.programs import bits, seeded, vae


def test_a_second_observed_site_of_another_scale_is_reported_unscaled():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])
            with poutine.scale(scale=50.0):
                pyro.sample("y", dist.Normal(z, 1.0), obs=x[:, 1])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.7))

    x = torch.randn(6, 2).double()
    estimate = seeded(ELBO().estimate, model, guide, x)
    weights = seeded(log_weights, model, guide, x)
    torch.testing.assert_close(estimate.true_bound, weights[0], rtol=0, atol=1e-12)
    assert (estimate.bound < estimate.true_bound - 10).any()
    torch.manual_seed(3)
    assert mean_bound(model, guide, x, ELBO()) == pytest.approx(weights.mean().item(), abs=1e-5)  # in float32


@pytest.mark.parametrize("dims", ["event", "left", "right"])
def test_a_scale_of_each_datum_weighs_its_loss(dims):
    x, layout = data(), Layout(dims=dims)
    scale = torch.arange(1.0, 7.0).double()
    placed = scale[:, None] if dims == "right" else scale
    scaled = [poutine.scale(half, scale=placed) for half in pair(layout)]
    objective = IWAE(K, max_plate_nesting=layout.nesting)
    bound = objective.bound(*pair(Layout()), x) if dims == "event" else objective.bound(*pair(layout), x)
    estimate = objective.estimate(*scaled, x)
    torch.testing.assert_close(estimate.bound, bound, rtol=0, atol=1e-11)
    torch.testing.assert_close(estimate.loss, -(scale * bound).sum(), rtol=1e-12, atol=0)


def test_a_scale_that_differs_within_a_datum_is_refused():
    layout = Layout(dims="left")
    model, guide = (poutine.scale(half, scale=torch.rand(1, 6) + 1) for half in pair(layout))
    assert torch.isfinite(ELBO(K, max_plate_nesting=2).estimate(model, guide, data()).loss)

    def uneven(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 3, dim=-2), poutine.scale(scale=torch.tensor([[1.0], [2.0], [3.0]])):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide_of_z(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    with pytest.raises(ProgramError, match="^site 'x': found a scale of shape .*, expected the same one for all"):
        ELBO(max_plate_nesting=2).estimate(uneven, guide_of_z, torch.randn(4, 3))


def test_analytic_kl_is_sampled_where_one_program_has_a_scale_of_each_datum():
    program, x = vae().double(), bits(5).double()
    scale = torch.rand(5).double() + 0.5
    model, guide = poutine.scale(program.model, scale=scale), program.guide
    sampled, analytic = (seeded(ELBO(kl=kl).bound, model, guide, x) for kl in ("sample", "analytic"))
    assert torch.equal(sampled, analytic)
    same = [poutine.scale(half, scale=scale.clone()) for half in (program.model, program.guide)]
    sampled, analytic = (seeded(ELBO(kl=kl).bound, *same, x) for kl in ("sample", "analytic"))
    assert not torch.equal(sampled, analytic)


@pytest.mark.parametrize("free_bits_per", ["site", "unit"])
def test_the_floor_of_a_site_does_not_depend_on_how_its_mask_is_written(free_bits_per):
    def programs(mask):
        def half(x, observe):
            with pyro.plate("data", len(x), dim=-1):
                with pyro.plate("units", 3, dim=-2), poutine.mask(mask=mask):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(3, len(x)), 1.0 if observe else 0.99))
                if observe:
                    pyro.sample("x", dist.Normal(z.sum(-2), 1.0), obs=x)

        return lambda x: half(x, True), lambda x: half(x, False)

    objective = ELBO(free_bits=0.5, free_bits_per=free_bits_per, max_plate_nesting=2)
    x = torch.randn(4).double()
    bounds = [
        seeded(objective.bound, *programs(mask), x)
        for mask in (True, torch.ones(4).bool(), torch.ones(3, 4).bool())
    ]  # fmt: skip
    for bound in bounds[1:]:
        torch.testing.assert_close(bound, bounds[0], rtol=0, atol=1e-12)
    floor = 0.5 * (1 if free_bits_per == "site" else 3)
    without = seeded(ELBO(max_plate_nesting=2).estimate, *anneal_kl(*programs(True), 0.0), x).bound
    torch.testing.assert_close(bounds[0], without - floor, rtol=0, atol=1e-12)


def test_a_schedule_leaves_single_precision_alone():
    program, x = vae(), bits(5)
    schedule = Linear(10)
    schedule.set_step(3)
    annealed = anneal_kl(program.model, program.guide, schedule)
    for objective in (
        ELBO(free_bits=math.pi),
        ELBO(free_bits=0.1, free_bits_per="unit"),
        ELBO(capacity=Linear(5)),
        IWAE(3),
    ):
        estimate = objective.estimate(*annealed, x)
        assert {part.dtype for part in estimate} == {torch.float32}


@pytest.mark.parametrize("program", ["model", "guide"])
def test_a_latent_that_one_program_alone_masks_is_refused(program):
    """Its log p or log q would count by itself. Masks that leave out the same are one, however they are written."""
    pair, x = vae(), bits(5)
    seen = torch.tensor([True, True, False, True, True])
    halves = {"model": pair.model, "guide": pair.guide}
    halves[program] = poutine.mask(halves[program], mask=seen)
    for run in (log_weights, ELBO().bound):
        with pytest.raises(ProgramError, match="^site 'z': found masked otherwise in the guide than in the model, exp"):
            run(halves["model"], halves["guide"], x)
    other = "guide" if program == "model" else "model"
    halves[other] = poutine.mask(halves[other], mask=seen.clone())
    assert (log_weights(halves["model"], halves["guide"], x, 3)[:, 2] == 0).all()
    inside = poutine.mask(pair.model, mask=torch.tensor(True))
    assert torch.equal(seeded(log_weights, inside, pair.guide, x), seeded(log_weights, pair.model, pair.guide, x))


def test_what_obs_mask_leaves_out_is_masked_in_the_guide():
    """By its complement; then log p(x) of what is seen comes out."""

    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=seen)

    def guide(x, seen, masked=True):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.where(seen, x / 2, 0.0), torch.where(seen, 0.5**0.5, 1.0)))
            with poutine.mask(mask=~seen if masked else torch.tensor(True)):
                pyro.sample("x_unobserved", dist.Normal(z, 1.0))

    x, seen = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([True, False, True])
    found = log_weights(model, guide, Arguments(x, seen), 4)
    expected = torch.where(seen, dist.Normal(0.0, 2**0.5).log_prob(x), 0.0)
    torch.testing.assert_close(found, expected.expand(4, 3), rtol=0, atol=1e-6)
    with pytest.raises(ProgramError, match=r"^site 'x_unobserved': .* obs_mask=seen are masked by ~seen"):
        log_weights(model, functools.partial(guide, masked=False), Arguments(x, seen))


def test_a_mask_of_more_dimensions_than_there_are_plates_is_refused():
    program = vae()
    model = poutine.mask(program.model, mask=torch.ones(2, 1, 5).bool())
    with pytest.raises(
        ProgramError, match=r"^site 'z': found a log-probability of shape \(2, 1, 5\), expected at most 2"
    ):
        log_weights(model, program.guide, bits(5))


def test_a_distribution_that_does_not_fit_the_value_is_refused():
    def model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(torch.zeros(6), 1.0))

    with pytest.raises(ProgramError, match=r"^site 'z': found a value of shape \(6,\) in the model, expected one of a"):
        log_weights(model, guide, torch.zeros(6))
