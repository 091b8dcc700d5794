"""All that SVI takes: one pair written in six ways is trained to the same numbers, and as SVI trains it."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError
from tests.support import tutorials
from tests.support.programs import bits
from tests.support.writings import DIM, WRITINGS, Network, Pair, as_bare, as_methods, as_modules, guide_of, model_of

X = torch.linspace(-2.0, 2.0, 8 * DIM).reshape(8, DIM).sin() + 0.5


def fit(model, guide, data=X, **options):
    options = {"batch_size": 4, "num_epochs": 3, "lr": 0.05, "seed": 0, "progress": False} | options
    return pyro_vae.fit(model, guide, data, **options)


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


class TestWritings:
    @pytest.mark.parametrize("objective", [ELBO(), IWAE(3), Trace_ELBO()], ids=lambda o: type(o).__name__)
    def test_all_are_trained_to_the_same_bits(self, objective):
        model, guide, values = as_modules()
        records = fit(model, guide, objective=objective, valid=X[:3]).records
        expected = values()
        for write in WRITINGS[1:]:
            pyro.clear_param_store()
            model, guide, values = write()
            found = fit(model, guide, objective=objective, valid=X[:3]).records
            assert equal(values(), expected), write.__name__
            assert [each["valid_bound"] for each in found] == [each["valid_bound"] for each in records]

    def test_svi_takes_the_same_steps(self, double):
        """One batch, no order: SVI with Pyro's Adam, and fit, from the same draws."""
        x, steps = X.double(), 5
        for write in WRITINGS[1:]:
            pyro.clear_param_store()
            model, guide, values = write()
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
            torch.manual_seed(0)
            for _ in range(steps):
                svi.step(x[torch.randperm(len(x))])
            expected = values()
            pyro.clear_param_store()
            model, guide, values = write()
            fit(model, guide, x, batch_size=len(x), num_epochs=steps, optimizer=torch.optim.Adam)
            for name, value in values().items():
                # Adam's steps do not depend on the scale of the loss, but for its epsilon of 1e-8
                torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("write", WRITINGS, ids=lambda write: write.__name__)
    def test_nothing_else_is_left_in_the_store(self, write):
        pyro.param("strangers", torch.ones(2))
        model, guide, _ = write()
        names = {"as_bare": ["a", "c", "decoder.b", "s", "t", "w"], "as_mix": ["a", "c", "t"]}.get(write.__name__, [])
        fit(model, guide)
        assert sorted(pyro.get_param_store()) == sorted([*names, "strangers"])
        assert torch.equal(pyro.param("strangers"), torch.ones(2))
        for name in names:
            leaf = dict(pyro.get_param_store().named_parameters())[name]
            assert type(leaf) is torch.Tensor and leaf.is_leaf and leaf.requires_grad
            assert pyro.param(name).unconstrained() is leaf

    def test_values_in_the_store_are_the_start(self):
        model, guide, values = as_bare()
        fit(model, guide, num_epochs=2)
        fit(model, guide, num_epochs=1, lr=1e-12)
        twice = values()
        pyro.clear_param_store()
        fit(model, guide, num_epochs=2)
        torch.testing.assert_close(twice, values(), rtol=0, atol=1e-9)

    def test_without_a_seed_the_first_run_draws_nothing_from_the_caller(self):
        for write in (as_modules, as_methods):
            model, guide, values = write()
            torch.manual_seed(3)
            fit(model, guide, seed=None)
            states = torch.rand(1), values()["w"]
            if write is as_modules:
                expected = states
        assert torch.equal(states[0], expected[0]) and torch.equal(states[1], expected[1])

    def test_a_compiled_step_trains_bare_parameters(self, only_traced):
        found = []
        for compiled in (False, True):
            pyro.clear_param_store()
            model, guide, values = as_bare()
            history = fit(model, guide, compile=compiled)
            assert "fallback" not in history.records[-1]
            found.append(values())
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("write", WRITINGS[1:], ids=lambda write: write.__name__)
    def test_in_double_precision_data_stay_so(self, write, double):
        model, guide, values = write()
        fit(model, guide, X.double())
        assert {value.dtype for value in values().values()} == {torch.float64}


class TestTutorials:
    def test_the_vae_is_trained_as_it_stands(self):
        vae = tutorials.VAE()
        x = bits(6).flatten(1)[:, : tutorials.PIXELS].round()
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        fit(vae.model, vae.guide, x, batch_size=3)
        assert all(not torch.equal(before[name], value) for name, value in vae.state_dict().items())
        assert len(pyro.get_param_store()) == 0

    def test_others_train_what_they_register(self):
        """The labels of M2 are in the draws of the guide, whose classifier learns by its score."""
        ss_vae = tutorials.SSVAE()
        x = bits(6).flatten(1)[:, : tutorials.PIXELS].round()
        fit(functools.partial(ss_vae.model, ys=None), ss_vae.guide, x, batch_size=3)


class Owner:
    """A plain object with networks in its attributes, and programs as methods."""

    def __init__(self):
        self.networks = {"decoder": Network("wbs"), "rest": [Network("act")]}

    def model(self, x):
        pyro.module("decoder", self.networks["decoder"])
        model_of(x, *self.networks["decoder"]())

    def guide(self, x):
        pyro.module("encoder", self.networks["rest"][0])
        guide_of(x, *self.networks["rest"][0]())


class Registry:
    network = Network("act")  # of a class, which is not looked through


class TestReach:
    def test_networks_in_the_attributes_of_a_plain_object_are_trained(self):
        model, guide, values = as_modules()
        fit(model, guide)
        owner = Owner()
        fit(owner.model, owner.guide)
        assert torch.equal(owner.networks["decoder"].weight, values()["w"])
        assert torch.equal(owner.networks["rest"][0].weight, values()["a"])

    def test_a_parameter_out_of_reach_is_named(self):
        def guide(x):
            pyro.module("encoder", Registry.network)
            guide_of(x, *Registry.network())

        with pytest.raises(ProgramError, match=r"^parameter 'encoder.weight': found an nn.Parameter of no module"):
            fit(as_methods()[0], guide)
        assert len(pyro.get_param_store()) == 0

    def test_a_network_that_is_used_and_not_registered_is_left_alone_as_by_svi(self):
        network, encoder = Network("wbs"), Network("act")

        def model(x):
            model_of(x, *network())

        def guide(x):
            pyro.module("encoder", encoder)
            guide_of(x, *encoder())

        with pytest.warns(
            UserWarning, match=r"^found 3 parameters that the programs use and do not register .*network"
        ):
            fit(model, guide)
        assert torch.equal(network.weight, Network("wbs").weight)
        assert not torch.equal(encoder.weight, Network("act").weight)
        network.requires_grad_(False)
        fit(model, guide)

    def test_what_is_not_trained_keeps_its_mode(self):
        pair, features, modes = Pair(), nn.Sequential(nn.Dropout(0.5)).eval(), set()

        def model(x):
            modes.add((features.training, pair.decoder.training))
            pair.model(features(x))

        fit(model, pair.guide)
        assert modes == {(False, False), (False, True)} and pair.decoder.training and not features.training

    def test_a_program_without_parameters_is_told_how_to_register_them(self):
        network = Network("act")
        with (
            pytest.warns(UserWarning, match="do not register"),
            pytest.raises(
                ValueError, match=r"^model, guide: found no parameter to train, .* by pyro.module or pyro.pa"
            ),
        ):
            fit(functools.partial(model_of, **fixed("wbs")), lambda x: guide_of(x, *network()))


def fixed(letters):
    from tests.support.writings import start

    return {letter: start()[letter] for letter in letters}


class TestBareParameters:
    def test_one_that_is_declared_later_is_refused(self):
        calls = []

        def guide(x):
            calls.append(len(x))
            late = pyro.param("late", torch.zeros(1)) if len(calls) > 8 else 0.0
            guide_of(x, *(pyro.param(name, value) for name, value in fixed("ac").items()), torch.ones(1) + late)

        with pytest.raises(ProgramError, match=r"^parameter 'late': found for the first time after training had begun"):
            fit(as_methods()[0], guide)

    def test_another_constraint_than_that_in_the_store_is_refused(self):
        pyro.param("t", torch.ones(1))
        with pytest.raises(
            ProgramError, match=r"^parameter 't': found the constraint real in Pyro's .*, expected positive"
        ):
            fit(*as_bare()[:2])
        assert list(pyro.get_param_store()) == ["t"]

    def test_a_name_that_a_module_has_too_is_refused(self):
        pyro.param("t", torch.ones(1), constraint=constraints.positive)
        model, guide, _ = as_modules()
        with pytest.raises(ProgramError, match=r"^parameter 't': found in a module and in Pyro's parameter store"):
            fit(model, guide)

    def test_a_refused_pair_leaves_the_store_as_it_was(self):
        def guide(x):
            pyro.sample("y", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

        with pytest.raises(ProgramError):
            fit(as_methods()[0], guide)
        assert len(pyro.get_param_store()) == 0

    def test_a_module_may_have_some(self):
        class Guide(nn.Module):
            def forward(self, x):
                guide_of(x, *(pyro.param(name, value) for name, value in fixed("act").items()))

        fit(as_methods()[0], Guide())
        assert sorted(pyro.get_param_store()) == ["a", "c", "t"]
        assert not torch.equal(pyro.param("a"), fixed("a")["a"])


class TestLastBatch:
    def program(self, size):
        def model(x):
            with pyro.plate("data", size, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).expand([size, 1]).to_event(1))
                pyro.sample("x", dist.Normal(z, pyro.param("s", torch.ones(DIM))).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", size, dim=-1):
                pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(1)), 1.0).expand([size, 1]).to_event(1))

        return model, guide

    def test_a_plate_of_fixed_size_is_found_before_training(self):
        message = (
            r"^batch_size: found one that leaves a last batch of 2 of 8 data, on which the programs fail \(.*\); "
            "expected a divisor of 8, or a DataLoader with drop_last=True$"
        )
        with pytest.raises(ValueError, match=message):
            fit(*self.program(3), batch_size=3)
        with pytest.raises(ValueError, match=r"^batch_size: .* a last batch of 1 of 5 data"):
            fit(*self.program(4), batch_size=4, valid=X[:5])

    @pytest.mark.parametrize("data", [X, DataLoader(X[:7], batch_size=4, drop_last=True)])
    def test_whole_batches_alone_are_taken(self, data):
        fit(*self.program(4), data, batch_size=4)

    def test_programs_that_fail_on_all_batches_are_told_so(self):
        with pytest.raises(ValueError, match=r"^site 'z': found in a data plate of size 3"):
            fit(*self.program(3), batch_size=5)


def test_handlers_around_a_program_change_nothing_but_what_they_say():
    model, guide, values = as_methods()
    fit(model, guide)
    expected = values()
    model, guide, values = as_methods()
    fit(poutine.scale(model, scale=1.0), poutine.scale(guide, scale=1.0))
    assert equal(values(), expected)
