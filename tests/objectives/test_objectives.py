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
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.kl import analytic_kl
from pyro_vae.inference.pair import ProgramPair

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


class Chain(pyro.nn.PyroModule):
    """z2 -> z1 -> x in the model; the guide draws z1 given x, then z2 given z1 (or the other way round)."""

    def __init__(self, bottom_up: bool) -> None:
        super().__init__()
        self.bottom_up = bottom_up

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(0.7 * z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            if self.bottom_up:
                z1 = pyro.sample("z1", dist.Normal(0.5 * x, 0.6))
                pyro.sample("z2", dist.Normal(0.8 * z1, 0.7))
            else:
                z2 = pyro.sample("z2", dist.Normal(0.4 * x, 0.9))
                pyro.sample("z1", dist.Normal(0.3 * z2 + 0.2 * x, 0.6))


@pytest.mark.parametrize("bottom_up", [True, False])
def test_analytic_kl_of_a_hierarchy_has_the_sampled_mean(bottom_up):
    """TraceMeanField_ELBO gets the bottom-up guide wrong: it integrates z1 out though p(z1|z2) waits for z2."""
    chain, x = Chain(bottom_up), torch.full((100_000,), 1.3)
    estimates = [
        objective.bound(chain.model, chain.guide, x)
        for objective in (ELBO(), ELBO(kl="analytic"))
    ]  # fmt: skip
    errors = [estimate.std().item() / math.sqrt(len(x)) for estimate in estimates]
    difference = (estimates[0].mean() - estimates[1].mean()).item()
    assert abs(difference) < 4.5 * math.hypot(*errors)  # a false alarm in 150,000 runs
    pair = trace_pair(ProgramPair(chain.model, chain.guide), x)
    assert (analytic_kl(pair, "z1", True) is None) == bottom_up
    assert analytic_kl(pair, "z2", True) is not None
    if bottom_up:
        with pytest.warns(UserWarning, match="mean field"):
            wrong = -TraceMeanField_ELBO().loss(chain.model, chain.guide, x) / len(x)
        assert abs(wrong - estimates[0].mean().item()) > 20 * math.hypot(*errors)


def test_analytic_kl_falls_back_to_samples_where_there_is_no_formula(x):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.StudentT(5.0, 0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, D]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.5))

    bounds = []
    for kl in ("sample", "analytic"):
        torch.manual_seed(3)
        bounds.append(ELBO(3, kl=kl).bound(model, guide, x))
    torch.testing.assert_close(*bounds, rtol=0, atol=0)


def test_analytic_kl_is_left_to_samples_where_the_programs_scale_it_differently(vae, x):
    """TraceMeanField_ELBO would weigh the whole KL by the guide's scale alone."""
    guide = poutine.scale(vae.guide, scale=0.5)
    bounds = []
    for kl in ("sample", "analytic"):
        torch.manual_seed(3)
        bounds.append(ELBO(kl=kl).bound(vae.model, guide, x))
    torch.testing.assert_close(*bounds, rtol=0, atol=0)


def test_latent_scale_relative_to_the_data_weighs_its_kl(vae, x):
    class Annealed(pyro.nn.PyroModule):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def model(self, x):
            with pyro.plate("data", len(x), dim=-1):
                with poutine.scale(scale=self.weight):
                    z = pyro.sample("z", vae.prior())
                pyro.sample("x", vae.likelihood(z), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=self.weight):
                pyro.sample("z", vae.posterior(x))

    half = Annealed(0.5)
    torch.manual_seed(3)
    terms = trace_pair(ProgramPair(vae.model, vae.guide), x).terms()
    torch.manual_seed(3)
    bound = ELBO().bound(half.model, half.guide, x)
    torch.testing.assert_close(bound, (terms["x"] + 0.5 * terms["z"])[0], rtol=0, atol=1e-12)
    torch.manual_seed(3)
    whole = pyro_vae.log_weights(half.model, half.guide, x)
    torch.testing.assert_close(whole, terms["x"] + terms["z"], rtol=0, atol=1e-12)  # what is reported is the true one


@pytest.mark.parametrize("objective", [ELBO(), IWAE(5), ELBO(2, kl="analytic")], ids=repr)
def test_svi_trains_with_it(objective, vae, x):
    before = [parameter.clone() for parameter in vae.parameters()]
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=objective)
    start = svi.evaluate_loss(x)
    for _ in range(300):
        svi.step(x)
    assert svi.evaluate_loss(x) < start - 5  # nats, of about 28 at the start; a draw's spread is about 2
    assert all((parameter != old).any() for parameter, old in zip(vae.parameters(), before, strict=True))
    assert all(name.split("$$$")[0] in ("prior", "likelihood", "posterior") for name in pyro.get_param_store())


def test_unknown_kl_is_refused():
    with pytest.raises(ValueError, match=r"kl: found 'exact', expected one of 'sample', 'analytic'"):
        ELBO(kl="exact")


@pytest.mark.parametrize("count", [0, -1, 2.0, "3"])
def test_counts_are_positive_integers(count):
    with pytest.raises(ValueError, match="num_particles: found .* expected a positive integer"):
        IWAE(count)
