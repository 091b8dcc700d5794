"""Free bits and capacity: a floor under the mean KL and a target for it, against closed forms and the very draws."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import ELBO, ProgramError, anneal_kl
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.schedules import Linear
from tests.support.programs import seeded

pytestmark = pytest.mark.usefixtures("double")
CLOSE = {"rtol": 0, "atol": 1e-11}


class Layers(pyro.nn.PyroModule):
    """Two latents a datum, of two and of three units, whose KL is known: q = N(loc, scale), p = N(0, 1)."""

    def __init__(self):
        super().__init__()
        self.loc1 = torch.nn.Parameter(torch.tensor([0.2, -0.1]))
        self.loc2 = torch.nn.Parameter(torch.tensor([0.1, 1.0, -2.0]))
        self.shift = torch.nn.Parameter(torch.tensor(0.5))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1.sum(-1) + z2.sum(-1) + self.shift, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(self.loc2.expand(len(x), 3), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(self.loc1.expand(len(x), 2), 1.0).to_event(1))

    @property
    def locs(self):
        return {"z1": self.loc1, "z2": self.loc2}

    def gradients(self, value):
        return torch.autograd.grad(value, (self.loc1, self.loc2, self.shift), retain_graph=True)


@pytest.fixture
def layers():
    return Layers()


@pytest.fixture
def data():
    return torch.linspace(-2.0, 2.0, 7)


def terms(layers, data, num_particles):
    """log p(x|z), and minus the sampled KL of each unit of each layer, ``(K, B, U)``, of the seed's draws."""
    trace = seeded(trace_pair, ProgramPair(layers.model, layers.guide), data, num_particles)
    units = {}
    for name, loc in layers.locs.items():
        z = trace.guide_trace.nodes[name]["value"].reshape(num_particles, len(data), -1)
        units[name] = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(loc, 1.0).log_prob(z)
    return trace.terms()["x"], units


def same_with_gradient(layers, found, expected):
    torch.testing.assert_close(found, expected, **CLOSE)
    for gradient, reference in zip(layers.gradients(found.sum()), layers.gradients(expected.sum()), strict=True):
        torch.testing.assert_close(gradient, reference, **CLOSE)


class TestFreeBits:
    @pytest.mark.parametrize("num_particles", [1, 3])
    @pytest.mark.parametrize("weight", [1.0, 0.4])
    def test_a_site_below_the_floor_costs_the_floor_and_one_above_its_kl(self, weight, num_particles, layers, data):
        """In closed form: KL = loc^2 / 2, so 0.025 nats of z1 and 2.505 of z2, a floor of one nat between them."""
        log_p_x, _ = terms(layers, data, num_particles)
        kl = {name: loc.square().sum() / 2 for name, loc in layers.locs.items()}
        assert kl["z1"] < 0.03 and kl["z2"] > 2.5
        pair = anneal_kl(layers.model, layers.guide, weight)
        objective = ELBO(num_particles, kl="analytic", free_bits=1.0)
        same_with_gradient(
            layers, seeded(objective.bound, *pair, data), log_p_x.mean(0) - weight * 1.0 - weight * kl["z2"]
        )
        true_bound = seeded(objective.estimate, *pair, data).true_bound
        torch.testing.assert_close(true_bound, log_p_x.mean(0) - kl["z1"] - kl["z2"], **CLOSE)

    def test_below_the_floor_the_kl_has_no_gradient_at_all(self, layers):
        def without_data(x):
            with pyro.plate("data", len(x), dim=-1):
                for name, loc in reversed(layers.locs.items()):
                    pyro.sample(name, dist.Normal(torch.zeros(len(loc)), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(layers.shift, 1.0), obs=x)

        loss = ELBO(kl="analytic", free_bits=1.0).differentiable_loss(without_data, layers.guide, torch.zeros(4))
        first, second = torch.autograd.grad(loss, (layers.loc1, layers.loc2), allow_unused=True, materialize_grads=True)
        assert first.tolist() == [0.0, 0.0]
        torch.testing.assert_close(second, 4 * layers.loc2.detach(), **CLOSE)

    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_sampled_by_site(self, num_particles, layers, data):
        log_p_x, units = terms(layers, data, num_particles)
        kl = {name: -ratio.sum(-1) for name, ratio in units.items()}
        floor = (kl["z1"].mean() + kl["z2"].mean()).item() / 2
        assert 0 < kl["z1"].mean() + 0.2 < floor < kl["z2"].mean() - 0.2
        objective = ELBO(num_particles, free_bits=floor)
        found = seeded(objective.bound, layers.model, layers.guide, data)
        same_with_gradient(layers, found, log_p_x.mean(0) - floor - kl["z2"].mean(0))
        true_bound = seeded(objective.estimate, layers.model, layers.guide, data).true_bound
        plain = seeded(ELBO(num_particles).bound, layers.model, layers.guide, data)
        torch.testing.assert_close(true_bound, plain, rtol=0, atol=0)

    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_sampled_by_unit(self, num_particles, layers, data):
        log_p_x, units = terms(layers, data, num_particles)
        free, expected, num_below = 0.3, log_p_x.mean(0), 0
        for ratio in units.values():
            for unit in ratio.unbind(-1):  # (K, B)
                below = -unit.mean() < free
                num_below += int(below)
                expected = expected + (unit.new_tensor(-free) if below else unit.mean(0))
        assert 1 <= num_below <= 4
        objective = ELBO(num_particles, free_bits=free, free_bits_per="unit")
        same_with_gradient(layers, seeded(objective.bound, layers.model, layers.guide, data), expected)
        true_bound = seeded(objective.estimate, layers.model, layers.guide, data).true_bound
        plain = seeded(ELBO(num_particles).bound, layers.model, layers.guide, data)
        torch.testing.assert_close(true_bound, plain, rtol=0, atol=0)

    def test_a_latent_without_units_of_its_own_is_named(self, layers, data):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z2", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("z1", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))

        ELBO(free_bits=0.1).bound(layers.model, guide, data)  # as a whole it has a floor
        message = (
            "site 'z1': found MultivariateNormal.* expected both to be independent over the units for free_bits_per"
        )
        with pytest.raises(ProgramError, match=message):
            ELBO(free_bits=0.1, free_bits_per="unit").bound(layers.model, guide, data)


class TestCapacity:
    @pytest.mark.parametrize("capacity", [0.0, 1.0, 2.5, 2.6, 7.0, Linear(4, start=0.5), Linear(4, start=9.0)], ids=str)
    @pytest.mark.parametrize("kl", ["sample", "analytic"])
    def test_the_mean_kl_is_drawn_to_it_from_both_sides(self, kl, capacity, layers, data):
        log_p_x, units = terms(layers, data, 3)
        if kl == "analytic":
            mean_kl = sum(loc.square().sum() / 2 for loc in layers.locs.values())
        else:
            mean_kl = -sum(ratio.sum(-1) for ratio in units.values()).mean()
        target = capacity.start if isinstance(capacity, Linear) else capacity
        objective = ELBO(3, kl=kl, capacity=capacity, capacity_weight=20.0)
        found = seeded(objective.bound, layers.model, layers.guide, data).mean()
        same_with_gradient(layers, found, log_p_x.mean() - 20 * (mean_kl - target).abs())
        true_bound = seeded(objective.estimate, layers.model, layers.guide, data).true_bound
        plain = seeded(ELBO(3, kl=kl).bound, layers.model, layers.guide, data)
        torch.testing.assert_close(true_bound, plain, rtol=0, atol=0)

    def test_the_schedule_moves_it(self, layers, data):
        capacity = Linear(2, end=50.0)
        objective = ELBO(kl="analytic", capacity=capacity, capacity_weight=1.0)
        kl = sum(loc.square().sum() / 2 for loc in layers.locs.values()).item()
        losses = []
        for _ in range(3):
            losses.append(seeded(objective.loss, layers.model, layers.guide, data) / len(data))
            capacity.step()
        assert losses[1] - losses[0] == pytest.approx((25 - kl) - kl, abs=1e-11)
        assert losses[2] - losses[1] == pytest.approx(25, abs=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"free_bits": -0.1}, "free_bits: found -0.1, expected a finite number, 0 or more"),
        ({"free_bits": math.inf}, "free_bits: found inf, expected a finite number, 0 or more"),
        ({"free_bits": Linear(3)}, r"free_bits: found Linear, expected a finite number, 0 or more"),
        ({"free_bits_per": "layer"}, "free_bits_per: found 'layer', expected one of 'site', 'unit'"),
        ({"capacity": -1.0}, "capacity: found -1.0, expected a finite number, 0 or more"),
        ({"capacity": 1.0, "capacity_weight": math.nan}, "capacity_weight: found nan, expected a finite number, 0 or"),
        ({"free_bits": 0.1, "capacity": 2.0}, "free_bits: found 0.1 beside capacity=2.0, expected one of the two"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ELBO(**options)
