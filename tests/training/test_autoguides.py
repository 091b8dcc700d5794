"""AutoGuides and easy guides through ``fit``: set up on the first batch, trained, saved, taken up again.

The model is z_b ~ N(0, 1), x_b ~ N(z_b, 1), whose posterior is N(x_b / 2, 1/2), and whose most likely z is x_b / 2.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_mean,
)
from torch import nn
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae import ProgramError
from tests.training.test_callables import equal
from tests.training.test_resume import interrupt

X = torch.linspace(-2.0, 2.0, 6)
Y = X + 1.0


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(torch.zeros(()), 1.0)), 1.0), obs=x)


class Easy(EasyGuide):
    """A guide that takes the data to latents by a group, whose parameters are its own."""

    def __init__(self, model):
        super().__init__(model)
        self.slope, self.log_scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def guide(self, x):
        group = self.group(match="z")
        with self.plate("data", len(x), dim=-1):
            loc = (self.slope * x)[:, None]
            group.sample("all", dist.Normal(loc, self.log_scale.exp()).to_event(1))


class EasyMAP(EasyGuide):
    def guide(self, x):
        with self.plate("data", len(x), dim=-1):
            self.map_estimate("z")


def in_a_list(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    return guide


def fit(guide, data=X, program=model, **options):
    options = {"batch_size": len(X), "num_epochs": 3, "lr": 0.05, "seed": 0, "progress": False} | options
    return pyro_vae.fit(program, guide, data, **options)


def state(guide):
    return {name: tensor.clone() for name, tensor in guide.state_dict().items()}


class TestExact:
    """Adam with a rate that falls to nothing; ELBO with K = 20, whose gradient noise has a scale of 0.05."""

    options = {"num_epochs": 600, "lr": lambda done: 0.1 * (1 - done) ** 2}  # noqa: RUF012

    @pytest.mark.parametrize("make", [AutoNormal, in_a_list])
    def test_the_posterior_of_each_datum_is_found(self, make):
        guide = make(model)
        history = fit(guide, objective=pyro_vae.ELBO(20), **self.options)
        part = guide[0] if make is in_a_list else guide
        torch.testing.assert_close(part.locs.z.detach(), X / 2, rtol=0, atol=0.03)
        torch.testing.assert_close(part.scales.z.detach(), torch.full((6,), 0.5).sqrt(), rtol=0, atol=0.03)
        exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(X).mean().item()  # log p(x)
        assert history.records[-1]["train_bound"] == pytest.approx(exact, abs=0.01)

    @pytest.mark.parametrize("make", [AutoDelta, EasyMAP])
    def test_the_most_likely_latents_are_found(self, make):
        guide = make(model)
        fit(guide, **self.options)
        found = guide.z if make is EasyMAP else guide.median()["z"]
        torch.testing.assert_close(found.detach(), X / 2, rtol=0, atol=1e-3)

    def test_svi_finds_the_same(self):
        """The same draws and steps; where Pyro's Adam and torch's differ, by 1e-7, they may over steps by 1e-6."""
        torch.manual_seed(0)
        guide = AutoNormal(model, init_loc_fn=init_to_mean)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        guide(X)
        torch.manual_seed(0)
        for _ in range(3):
            svi.step(X)
        other = AutoNormal(model, init_loc_fn=init_to_mean)
        fit(other, objective=Trace_ELBO(), optimizer=torch.optim.Adam)
        for name, value in state(guide).items():
            torch.testing.assert_close(state(other)[name], value, rtol=0, atol=1e-5)


class TestLatentsOfEachDatum:
    @pytest.mark.parametrize("make", [AutoNormal, AutoDelta, EasyMAP, in_a_list])
    def test_they_are_refused_where_batches_would_share_them(self, make):
        message = r"^site 'z': found a latent of each datum in \w+, which learns 3 of them for all batches of 6 data"
        with pytest.raises(ProgramError, match=message):
            fit(make(model), batch_size=3)

    def test_they_are_refused_for_other_data(self):
        with pytest.raises(ProgramError, match=r"^site 'z': .* 6 of them, and none for validation data"):
            fit(AutoNormal(model), valid=X)
        with pytest.raises(ProgramError, match=r"^site 'z': .* by their place; expected a DataLoader that does not"):
            fit(AutoNormal(model), DataLoader(X, batch_size=6, shuffle=True))
        fit(AutoNormal(model), DataLoader(X, batch_size=6))

    def test_a_guide_that_takes_the_data_to_them_takes_batches(self):
        guide = Easy(model)
        fit(guide, batch_size=3, num_epochs=400, lr=lambda done: 0.1 * (1 - done) ** 2, objective=pyro_vae.ELBO(10))
        assert guide.slope.item() == pytest.approx(0.5, abs=0.03)
        assert guide.log_scale.exp().item() == pytest.approx(math.sqrt(0.5), abs=0.03)


def regression(x):
    """Two global latents, in all data."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", dist.Normal(mean.sum(-1), pyro.param("noise", torch.tensor(1.0))), obs=x)


class TestGlobalLatents:
    @pytest.mark.parametrize("objective", [Trace_ELBO(), pyro_vae.ELBO()], ids=["Pyro's", "ours"])
    @pytest.mark.parametrize("make", [AutoNormal, AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal])
    def test_svi_takes_the_same_steps(self, make, objective):
        """On all data, from the same draws; sums of losses and their means differ by Adam's epsilon and rounding."""
        guide = make(regression, init_loc_fn=init_to_mean)
        svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        guide(Y)
        torch.manual_seed(0)
        for _ in range(5):
            svi.step(Y[torch.randperm(len(Y))])
        expected = state(guide) | {"noise": pyro.param("noise").detach().clone()}
        pyro.clear_param_store()
        guide = make(regression, init_loc_fn=init_to_mean)
        fit(guide, Y, program=regression, objective=objective, optimizer=torch.optim.Adam, num_epochs=5)
        found = state(guide) | {"noise": pyro.param("noise").detach()}
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_others_are_trained(self):
        guide = AutoLowRankMultivariateNormal(regression, rank=1)
        history = fit(guide, Y, program=regression, batch_size=3)
        assert history.records[-1]["train_bound"] > history.records[0]["train_bound"]


class Model(nn.Module):
    """A model with a network of its own, and one parameter in the store."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(1, 1, bias=False)

    def model(self, x):
        pyro.module("weight", self.weight)
        bias = pyro.param("bias", torch.zeros(1))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.weight(z) + bias, 1.0).to_event(1), obs=x[:, None])


class TestFiles:
    def test_the_model_of_a_guide_is_counted_once(self, tmp_path):
        owner = Model()
        guide = AutoNormal(owner.model)
        fit(guide, program=owner.model, checkpoint=tmp_path)
        found = pyro_vae.runtime.tensor_files.read_tensors(tmp_path / "checkpoint.safetensors")[0]
        assert found.keys() == {
            "model.weight.weight",
            "guide.locs.z_unconstrained",
            "guide.scales.z_unconstrained",
            "params.bias",
        }
        expected = state(guide) | state(owner) | {"bias": pyro.param("bias").detach().clone()}
        pyro.clear_param_store()
        owner = Model()
        guide = AutoNormal(owner.model)
        guide(X)
        pyro.clear_param_store()
        pyro_vae.load(tmp_path, (owner.model, guide))
        assert equal(state(guide) | state(owner) | {"bias": pyro.param("bias").detach()}, expected)

    def test_a_run_is_taken_up_bit_by_bit(self, tmp_path):
        found = []
        for stops in (False, True):
            pyro.clear_param_store()
            torch.manual_seed(3)
            owner = Model()
            start = state(owner)
            stop = lambda record: interrupt() if record["epoch"] == 2 else None  # noqa: E731
            options = {"num_epochs": 5, "checkpoint": tmp_path / "run"} if stops else {"num_epochs": 5}
            guide = AutoNormal(owner.model)
            fit(guide, program=owner.model, callbacks=[stop] if stops else (), **options)
            if stops:
                pyro.clear_param_store()
                owner = Model()
                owner.load_state_dict(start)
                guide = AutoNormal(owner.model)
                fit(guide, program=owner.model, resume=True, **options)
            found.append(state(guide) | state(owner) | {"bias": pyro.param("bias").detach()})
        assert equal(*found)

    def test_seeds_decide_where_it_starts(self):
        found = []
        for seed in (0, 0, 1):
            guide = AutoNormal(model)
            fit(guide, seed=seed, lr=1e-12)
            found.append(state(guide)["locs.z_unconstrained"])
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
