"""ELBO and IWAE: against Pyro's own, against formulas, under scales, and in SVI."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE

D, L, B = 5, 3, 8  # of the fixtures vae and x


class Subsampled(nn.Module):
    """A pair's half inside ``plate(size=1000, subsample_size=B)``, all of it scaled."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x):
        with poutine.scale(scale=0.3), pyro.plate("data", size=1000, subsample_size=len(x), dim=-1):
            self.sites(x)


class SubsampledModel(Subsampled, pyro.nn.PyroModule):
    def sites(self, x):
        pyro.sample("x", self.part.likelihood(pyro.sample("z", self.part.prior())), obs=x)


class SubsampledGuide(Subsampled, pyro.nn.PyroModule):
    def sites(self, x):
        pyro.sample("z", self.part.posterior(x))


def loss_and_gradients(loss, model, guide, x):
    torch.manual_seed(3)
    value = loss(model, guide)(x)
    parameters = [p for module in (model, guide) for p in module.parameters()]
    return value, torch.autograd.grad(value, parameters)


def assert_same(ours, theirs, model, guide, x):
    value, gradients = loss_and_gradients(ours, model, guide, x)
    expected_value, expected = loss_and_gradients(theirs, model, guide, x)
    torch.testing.assert_close(value, torch.as_tensor(expected_value, dtype=value.dtype), rtol=1e-12, atol=1e-12)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)


PAIRS_OF_LOSSES = {
    "Trace_ELBO": (ELBO(), Trace_ELBO()),
    "Trace_ELBO, 5 particles": (
        ELBO(5), Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    ),
    "TraceMeanField_ELBO": (ELBO(kl="analytic"), TraceMeanField_ELBO()),
    "TraceMeanField_ELBO, 5 particles": (
        ELBO(5, kl="analytic"), TraceMeanField_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS_OF_LOSSES)
def test_elbo_is_pyros(name, vae, x):
    assert_same(*PAIRS_OF_LOSSES[name], vae.model, vae.guide, x)


@pytest.mark.parametrize("name", PAIRS_OF_LOSSES)
def test_elbo_is_pyros_under_subsampling_and_scales(name, vae, x):
    assert_same(*PAIRS_OF_LOSSES[name], SubsampledModel(vae.model), SubsampledGuide(vae.guide), x)


def test_iwae_is_pyros_renyi_bound_where_that_is_right(vae, x):
    """One data plate, no scale: only there RenyiELBO(alpha=0) is the importance-weighted bound."""
    torch.manual_seed(3)
    theirs = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1).loss(
        vae.model, vae.guide, x
    )
    torch.manual_seed(3)
    assert IWAE(5).loss(vae.model, vae.guide, x) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("objective", [ELBO(4), IWAE(4), ELBO(4, kl="analytic")], ids=repr)
def test_scale_multiplies_the_loss_and_not_the_bound(objective, vae, x):
    torch.manual_seed(3)
    plain = objective.bound(vae.model, vae.guide, x)
    scaled_pair = SubsampledModel(vae.model), SubsampledGuide(vae.guide)
    torch.manual_seed(3)
    scaled = objective.bound(*scaled_pair, x)
    assert plain.shape == (B,)
    torch.manual_seed(3)
    loss = objective(*scaled_pair)(x)
    # subsample sites of the plate draw from the generator before the latents do: compare the loss with its own bound
    torch.testing.assert_close(loss, -0.3 * 1000 / B * scaled.sum(), rtol=1e-12, atol=0)
    torch.manual_seed(3)
    whole = poutine.scale(vae.model, scale=0.1), poutine.scale(vae.guide, scale=0.1)
    torch.testing.assert_close(objective.bound(*whole, x), plain, rtol=1e-12, atol=0)


def test_bounds_are_reductions_of_the_weights(vae, x):
    torch.manual_seed(3)
    w = pyro_vae.log_weights(vae.model, vae.guide, x, 6).exp()
    for objective, expected in ((ELBO(6), w.log().mean(0)), (IWAE(6), w.mean(0).log())):
        torch.manual_seed(3)
        torch.testing.assert_close(objective.bound(vae.model, vae.guide, x), expected, rtol=0, atol=1e-12)


def test_one_particle_of_iwae_is_the_elbo(vae, x):
    bounds = []
    for objective in (ELBO(), IWAE()):
        torch.manual_seed(3)
        bounds.append(objective.bound(vae.model, vae.guide, x))
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-13)


def test_the_traces_that_pyro_asks_an_elbo_for(vae, x):
    model_trace, guide_trace = IWAE(2)._get_trace(vae.model, vae.guide, (x,), {})
    assert guide_trace.nodes["z"]["value"].shape == (2, B, L)
    assert model_trace.nodes["z"]["value"] is guide_trace.nodes["z"]["value"]


def test_a_pair_without_parameters_has_a_loss_and_no_gradient():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    x = torch.randn(4)
    exact = -dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum().item()  # the guide is the posterior
    assert IWAE(2).loss_and_grads(model, guide, x) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(
    "objective",
    [*(pytest.param(each, marks=pytest.mark.cross) for each in (ELBO(), IWAE(5))), ELBO(2, kl="analytic")],
    ids=repr,
)
def test_svi_trains_with_it(objective, vae, x):
    before = [parameter.clone() for parameter in vae.parameters()]
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=objective)
    start = svi.evaluate_loss(x)
    for _ in range(300):
        svi.step(x)
    assert svi.evaluate_loss(x) < start - 5  # nats, of about 28 at the start; a draw's spread is about 2
    assert all((parameter != old).any() for parameter, old in zip(vae.parameters(), before, strict=True))
    assert all(name.split("$$$")[0] in ("prior", "likelihood", "posterior") for name in pyro.get_param_store())


@pytest.mark.parametrize("count", [0, -1, 2.0, "3"])
def test_counts_are_positive_integers(count):
    with pytest.raises(ValueError, match="num_particles: found .* expected a positive integer"):
        IWAE(count)
