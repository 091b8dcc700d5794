"""The log weights: what they are, and what they do not depend on."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyro_vae
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair

D, L, B = 5, 3, 8  # of the fixtures vae and x


def same_draws(model, guide, x, num_particles=4, **options):
    torch.manual_seed(3)
    return pyro_vae.log_weights(model, guide, x, num_particles, **options)


@pytest.mark.parametrize("num_particles", [1, 4])
def test_formula(vae, x, num_particles):
    torch.manual_seed(3)
    pair = trace_pair(ProgramPair(vae.model, vae.guide), x, num_particles)
    z = pair.guide_trace.nodes["z"]["value"]
    expected = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - vae.posterior(x).log_prob(z)
    log_w = same_draws(vae.model, vae.guide, x, num_particles)
    assert log_w.shape == (num_particles, B)
    torch.testing.assert_close(log_w, expected.reshape(num_particles, B), rtol=0, atol=1e-12)


def test_terms_add_up_and_are_named_by_site(vae, x):
    torch.manual_seed(3)
    terms = trace_pair(ProgramPair(vae.model, vae.guide), x, 4).terms()
    assert set(terms) == {"z", "x"}
    torch.testing.assert_close(terms["z"] + terms["x"], same_draws(vae.model, vae.guide, x), rtol=0, atol=1e-12)


def test_scales_do_not_count(vae, x):
    class Subsampled(nn.Module):
        def __init__(self, program):
            super().__init__()
            self.program = program

        def forward(self, x):
            with poutine.scale(scale=600.0):
                return self.program(x)

    expected = same_draws(vae.model, vae.guide, x)
    scaled = same_draws(poutine.scale(vae.model, scale=0.1), poutine.scale(vae.guide, scale=0.1), x)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=0)
    torch.testing.assert_close(same_draws(Subsampled(vae.model), vae.guide, x), expected, rtol=0, atol=0)


def test_plate_subsampling_does_not_count(vae, x):
    def model(x):
        with pyro.plate("data", size=50_000, subsample_size=len(x), dim=-1):
            z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", size=50_000, subsample_size=len(x), dim=-1):
            pyro.sample("z", vae.posterior(x))

    torch.manual_seed(3)
    pair = trace_pair(ProgramPair(model, guide), x, 4)
    assert pair.scale == 50_000 / B
    z = pair.guide_trace.nodes["z"]["value"]
    expected = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - vae.posterior(x).log_prob(z)
    torch.testing.assert_close(sum(pair.terms().values()), expected, rtol=0, atol=1e-12)


def test_masks_count(vae, x):
    mask = torch.arange(B) % 2 == 0
    log_w = same_draws(poutine.mask(vae.model, mask=mask), poutine.mask(vae.guide, mask=mask), x)
    expected = same_draws(vae.model, vae.guide, x)
    torch.testing.assert_close(log_w[:, mask], expected[:, mask], rtol=0, atol=0)
    assert (log_w[:, ~mask] == 0).all() and (expected != 0).all()


def test_batch_size_does_not_count(vae, x):
    with torch.no_grad():  # a guide without noise: the weights are then the same whatever is drawn
        vae.posterior.network.output.weight[L:] = 0
        vae.posterior.network.output.bias[L:] = -1e9  # scale 1e-3, its bound
        whole = pyro_vae.log_likelihood(vae.model, vae.guide, x, 400, seed=0)
        parts = [pyro_vae.log_likelihood(vae.model, vae.guide, part, 400, seed=0) for part in x.split(3)]
    difference = whole.values - torch.cat([part.values for part in parts])
    # each of the 8 estimates has its own error bar; 5 standard errors of a difference: a false alarm in 2 million runs
    assert (difference.abs() <= 5 * 2**0.5 * whole.std_error).all()


def test_encoder_sees_each_datum_once(vae, x):
    rows = []
    vae.posterior.network.register_forward_hook(lambda _, inputs, output: rows.append(inputs[0].shape[0]))
    decoded = []
    vae.likelihood.network.register_forward_hook(lambda _, inputs, output: decoded.append(tuple(inputs[0].shape)))
    pyro_vae.log_weights(vae.model, vae.guide, x, num_particles=6, vectorize_particles=True)
    assert rows == [B]
    assert decoded == [(6, B, L)]


def test_gradients_flow_to_both_programs(vae, x):
    pyro_vae.log_weights(vae.model, vae.guide, x, 2).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in vae.parameters())


def test_nothing_is_left_in_the_parameter_store(vae, x):
    pyro.param("mine", torch.tensor(1.0))
    pyro_vae.log_weights(vae.model, vae.guide, x, 2)
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_further_plates_inside_the_datum(vae, x):
    def model(x):
        pixels = pyro.plate("pixels", D, dim=-2)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", vae.prior())  # (B, L) or (K, 1, B, L)
            logits = vae.likelihood.network(z).movedim(-1, -2).squeeze(-3)  # (D, B) or (K, D, B)
            with pixels:
                pyro.sample("x", dist.Bernoulli(logits=logits), obs=x.T)

    def squeezed(x):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", vae.posterior(x))

    wide = same_draws(model, squeezed, x, max_plate_nesting=2)
    torch.testing.assert_close(wide, same_draws(vae.model, vae.guide, x), rtol=0, atol=1e-12)


def test_discrete_latent_against_enumeration():
    """log p(x) of a mixture of three Bernoulli products, by enumeration and by weights from an uneven guide."""
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    probs = torch.tensor([[0.9, 0.1], [0.5, 0.6], [0.2, 0.8]], dtype=torch.float64)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)))

    per_state = dist.Bernoulli(probs).to_event(1).log_prob(x[:, None]) + weights.log()  # (4, 3)
    estimate = pyro_vae.log_likelihood(model, guide, x, num_particles=20_000, seed=0)
    # 4.5 standard errors for each of four data: a false alarm in 35,000 choices of the seed
    assert ((estimate.values - per_state.logsumexp(1)).abs() < 4.5 * estimate.std_error).all()
    assert estimate.std_error.max() < 0.02


def test_bare_params_of_a_plain_function_are_the_ones_that_svi_trained(x):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, D]).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 0.1))

    before = same_draws(model, guide, x)
    pyro.param("loc", torch.tensor(5.0))
    assert (same_draws(model, guide, x) < before - 5).all()
