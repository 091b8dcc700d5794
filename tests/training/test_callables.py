"""All that SVI takes: one pair written in six ways is trained to the same numbers, and as SVI trains it."""

from __future__ import annotations

import functools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError
from tests.support import tutorials
from tests.support.programs import bits
from tests.support.writings import (
    DIM,
    WRITINGS,
    Network,
    Pair,
    as_bare,
    as_methods,
    as_modules,
    guide_of,
    model_of,
    start_of,
)

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
            fit(functools.partial(model_of, **start_of("wbs")), lambda x: guide_of(x, *network()))


def test_handlers_around_a_program_change_nothing_but_what_they_say():
    model, guide, values = as_methods()
    fit(model, guide)
    expected = values()
    model, guide, values = as_methods()
    fit(poutine.scale(model, scale=1.0), poutine.scale(guide, scale=1.0))
    assert equal(values(), expected)
