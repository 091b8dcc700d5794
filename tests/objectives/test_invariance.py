"""What must not change a bound or its gradient: order, batches, scales, masks, plates, chunks; with the same draws."""

from __future__ import annotations

import pytest
import torch

import pyro_vae
from pyro_vae import IWAE, MIWAE
from tests.support.every_objective import BOUNDS, EXTREMES, GRADIENTS, OTHERS, WAKE_SLEEP
from tests.support.fixed_noise import D, K, L, Layout, data, pair

SEPARATE = {"free bits", "free bits per unit", "capacity"}  # of the mean over a batch: not a sum over its data
CASES = [
    (name, gradient, discrete)
    for name in {**BOUNDS, **EXTREMES, **OTHERS, "reweighted, wake": None}
    for gradient in GRADIENTS
    for discrete in (False, True)
    if not (gradient != "reparam" and (discrete or name == "reweighted, wake"))
    if not (gradient == "dreg" and name in EXTREMES)
]
MAKE = {**BOUNDS, **EXTREMES, **OTHERS, **WAKE_SLEEP}


def over(cases):
    ids = [f"{name}-{gradient}-{'discrete' if discrete else 'normal'}" for name, gradient, discrete in cases]
    return pytest.mark.parametrize("case", cases, ids=ids)


over_all = over(CASES)
over_sums = over([case for case in CASES if case[0] not in SEPARATE])


def bound_and_gradient(case, layout, x):
    """The bound, the loss and the loss's gradient by every parameter."""
    name, gradient, discrete = case
    options = {"max_plate_nesting": layout.nesting, "vectorize_particles": True}  # the noise is that of K particles
    if name not in WAKE_SLEEP:
        options["gradient"] = gradient
    model, guide = pair(layout, discrete)
    estimate = MAKE[name](K, **options).estimate(model, guide, x)
    loss = estimate.loss
    gradients = torch.autograd.grad(loss, [*model.parameters(), *guide.parameters()])
    return estimate.bound.detach(), loss.detach(), torch.cat([g.flatten() for g in gradients])


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@over_all
def test_order_of_the_batch(case):
    x, order = data(), torch.tensor([3, 0, 5, 1, 4, 2])
    bound, loss, gradient = bound_and_gradient(case, Layout(), x)
    moved, moved_loss, moved_gradient = bound_and_gradient(case, Layout(), x[order])
    assert_close(moved, bound[order])
    assert_close(moved_loss, loss)
    assert_close(moved_gradient, gradient)
    assert gradient.abs().max() > 1e-2


@over_sums
def test_size_of_the_batch(case):
    x = data()
    bound, loss, gradient = bound_and_gradient(case, Layout(), x)
    parts = [bound_and_gradient(case, Layout(), part) for part in x.split([1, 2, 3])]
    assert_close(torch.cat([part[0] for part in parts]), bound)
    assert_close(sum(part[1] for part in parts), loss)
    assert_close(sum(part[2] for part in parts), gradient)


@over_all
@pytest.mark.parametrize(
    "layout, factor", [(Layout(size=600), 100.0), (Layout(scale=0.1), 0.1)], ids=["plate", "scale"]
)
def test_common_scale_multiplies_the_loss_alone(case, layout, factor):
    x = data()
    bound, loss, gradient = bound_and_gradient(case, Layout(), x)
    scaled, scaled_loss, scaled_gradient = bound_and_gradient(case, layout, x)
    assert_close(scaled, bound)
    assert_close(scaled_loss, factor * loss)
    assert_close(scaled_gradient, factor * gradient)


@over_sums
def test_masked_data_are_not_there(case):
    x = data()
    bound, _, gradient = bound_and_gradient(case, Layout(), x[:-1])
    masked, _, masked_gradient = bound_and_gradient(case, Layout(masked=True), x)
    assert_close(masked[:-1], bound)
    assert masked[-1] == 0
    assert_close(masked_gradient, gradient)


@over_all
@pytest.mark.parametrize("change", [{"deterministic": True}, {"dims": "left"}, {"dims": "right"}], ids=str)
def test_how_the_program_is_written(case, change):
    x = data()
    expected = bound_and_gradient(case, Layout(), x)
    for found, reference in zip(bound_and_gradient(case, Layout(**change), x), expected, strict=True):
        assert_close(found, reference)


@pytest.mark.parametrize("dims", ["event", "left", "right"])
def test_chunks_of_particles(dims):
    """Weights come out the same from one run of 6 particles and from 3 of 2; MIWAE is the mean of IWAE's chunks."""
    x, layout = data(num_particles=6), Layout(dims=dims)
    model, guide = pair(layout)
    options = {"max_plate_nesting": layout.nesting, "vectorize_particles": True}  # the noise is that of K particles
    whole = pyro_vae.log_weights(model, guide, x, 6, **options)
    chunks = [torch.cat([x[:, :D], noise], 1) for noise in x[:, D:].split(2 * L, dim=1)]
    parts = [pyro_vae.log_weights(model, guide, chunk, 2, **options) for chunk in chunks]
    assert_close(torch.cat(parts), whole)
    averaged = torch.stack([IWAE(2, **options).bound(model, guide, chunk) for chunk in chunks]).mean(0)
    assert_close(MIWAE(3, 2, **options).bound(model, guide, x), averaged)


def test_one_particle_without_its_plate():
    x = data(num_particles=1)
    for dims in ("event", "left", "right"):
        layout = Layout(dims=dims)
        weights = pyro_vae.log_weights(*pair(layout), x, max_plate_nesting=layout.nesting, vectorize_particles=True)
        assert_close(weights, pyro_vae.log_weights(*pair(Layout()), x))
