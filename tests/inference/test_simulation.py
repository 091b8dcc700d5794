"""Data that a model draws: their moments with those of the latents, what stays, and what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import ProgramError
from pyro_vae.data.batch import Arguments
from pyro_vae.inference import simulation
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from tests.support.linear_chains import LinearChain

pytestmark = pytest.mark.usefixtures("double")


def simulated(model, guide, x):
    pair = trace_pair(ProgramPair(model, guide).isolated(), x)
    return simulation.simulated(model, x, {name: pair.model_sites[name] for name in pair.observed})


def test_data_and_latents_have_the_moments_of_the_joint_density():
    """All means and covariances of (x, z1, z2), each within 5 standard errors: a false alarm in 20,000 runs."""
    chain = LinearChain.random(2)
    program = chain.program(chain.exact_posteriors("top-down"), "top-down")
    count = 20_000
    data, drawn = simulated(program.model, program.guide, torch.zeros(count, 5))
    found = torch.cat([data, drawn.nodes["z1"]["value"], drawn.nodes["z2"]["value"]], 1).detach()
    mean, covariance = chain.joint
    away = found - mean
    assert (away.mean(0).abs() < 5 * covariance.diagonal().sqrt() / math.sqrt(count)).all()
    products = away[:, :, None] * away[:, None]
    error = products.std(0) / math.sqrt(count)
    assert ((products.mean(0) - covariance).abs() < 5 * error).all()
    assert not data.requires_grad


def model(x, y, scale=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(y.to(torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def guide(x, y, scale=1.0):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def test_of_several_arguments_only_the_observed_one_is_simulated():
    x = Arguments(torch.zeros(4), y=torch.tensor([0, 10, 20, 30]), scale=1e-6)
    data, drawn = simulated(model, guide, x)
    assert data.kwargs["scale"] == 1e-6 and torch.equal(data.kwargs["y"], x.kwargs["y"])
    torch.testing.assert_close(data.args[0], drawn.nodes["z"]["value"], rtol=0, atol=1e-5)
    assert (data.args[0] - x.kwargs["y"]).abs().max() < 6
    assert (x.args[0] == 0).all()


def test_several_sites_and_types():
    """Each site finds its argument, also one that observes it flat, or as another type."""

    def both(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 4), 1e-3).to_event(1), obs=x.flatten(1))
            pyro.sample("y", dist.Bernoulli(logits=1e6 * z), obs=y.to(torch.float64))

    def latent(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    x = Arguments(torch.randn(50, 2, 2), torch.ones(50, dtype=torch.int64))
    data, drawn = simulated(both, latent, x)
    z = drawn.nodes["z"]["value"]
    assert data.args[0].shape == (50, 2, 2) and data.args[1].dtype is torch.int64
    assert torch.equal(data.args[1] == 1, z > 0)
    assert (data.args[0] - z[:, None, None]).abs().max() < 0.01


def observing(observe):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            observe(x, z)

    def latent(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    return program, latent


def site(value, z):
    pyro.sample("x", dist.Normal(z[:, None].expand(value.shape), 1.0).to_event(1), obs=value)


def left_of_the_data(x, z):
    with pyro.plate("entries", x.shape[1], dim=-2):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


@pytest.mark.parametrize("how", ["its distribution", "a block"])
def test_what_is_given_stays(how):
    """A site that is masked as a whole conditions the model and is no data."""

    def labelled(x, y):
        with pyro.plate("data", len(x)):
            fn = dist.Bernoulli(torch.full((len(x),), 0.5))
            with poutine.mask(mask=torch.tensor(how == "its distribution")):
                y = pyro.sample("y", fn.mask(False) if how == "its distribution" else fn, obs=y)
            z = pyro.sample("z", dist.Normal(10 * y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = Arguments(torch.randn(20), (torch.arange(20) % 2).double())
    data, drawn = simulated(labelled, lambda x, y: guide(x, y), x)
    assert torch.equal(data.args[1], x.args[1]) and torch.equal(drawn.nodes["y"]["value"], x.args[1])
    assert torch.equal(data.args[0] > 5, x.args[1] == 1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("observe", "message"),
        [
            (lambda x, z: pyro.factor("x", -z), "^site 'x': found a factor, expected a distribution that data can be"),
            (lambda x, z: site(x[:, :2], z), r"^site 'x': found simulated values of shape \(4, 2\), expected data of"),
            (lambda x, z: site(x.exp(), z), "^site 'x': found other values than the simulated ones where the model is"),
            (left_of_the_data, "^site 'x': found other values than the simulated ones where the model is run on them"),
        ],
    )
    @pytest.mark.parametrize("start", [0.0, 1.0])
    def test_data_that_are_not_what_a_site_observes(self, observe, message, start):
        with pytest.raises(ProgramError, match=message):
            simulated(*observing(observe), torch.full((4, 3), start))

    def test_arguments_that_cannot_be_told_apart(self):
        same = torch.zeros(4)
        with pytest.raises(ProgramError, match="^site 'x': found its values in 2 of the model's arguments, expected"):
            simulated(model, guide, Arguments(same, same))

    def test_a_value_that_is_no_argument(self):
        def half(x, y):
            model(0.5 * x, y)

        with pytest.raises(
            ProgramError, match="^site 'x': found its values in none of the model's arguments, expected"
        ):
            simulated(half, guide, Arguments(torch.ones(4), torch.zeros(4)))
