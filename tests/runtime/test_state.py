"""Global state: borrowed for a block and given back."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

import pyro_vae
from pyro_vae.inference.isolation import isolated
from pyro_vae.runtime.state import evaluating, seeded


class Program(PyroModule):
    """One positive weight matrix, which Pyro calls ``weight`` whatever the program."""

    def __init__(self, size):
        super().__init__()
        self.weight = PyroParam(torch.rand(size, size), constraint=dist.constraints.positive)

    def forward(self, x):
        return x @ self.weight.T


class TestIsolated:
    def test_two_modules_of_one_attribute_name_keep_their_own_weights(self):
        first, second, other = Program(2), Program(2), Program(3)
        x = torch.ones(1, 2)
        expected = [x @ program.weight.T for program in (first, second)]
        # Why it is needed: in the one store the second program runs with the first one's weights, and so does a copy.
        with pyro.get_param_store().scope():
            first(x)
            assert torch.equal(copy.deepcopy(second)(x), expected[0]) and not torch.equal(*expected)
        for _ in range(2):
            assert torch.equal(isolated(first)(x), expected[0])
            assert torch.equal(isolated(second)(x), expected[1])
            isolated(other)(torch.ones(1, 3))
        assert list(pyro.get_param_store().keys()) == []

    def test_bare_parameters_pass_in_and_updates_are_seen(self):
        def program():
            return pyro.param("rate"), pyro.param("free")

        pyro.param("rate", torch.tensor(2.0), constraint=dist.constraints.positive)
        pyro.param("free", torch.tensor([1.0, -1.0]))
        rate, free = isolated(program)()
        assert rate.item() == pytest.approx(2.0, rel=1e-6) and free.tolist() == [1.0, -1.0]
        (rate.log() + free.sum()).backward()
        store = pyro.get_param_store()
        # log of a parameter that is stored by its log: the gradient is one
        assert store._params["rate"].grad.item() == pytest.approx(1.0, rel=1e-6)
        assert store._params["free"].grad.tolist() == [1.0, 1.0]
        store["rate"] = torch.tensor(3.0)
        assert isolated(program)()[0].item() == pytest.approx(3.0, rel=1e-6)

    def test_arguments_and_results_pass_and_the_store_comes_back_after_an_exception(self):
        pyro.param("kept", torch.zeros(1))

        def program(x, *, fail):
            pyro.param("inside", torch.ones(1))
            if fail:
                raise KeyError("inside")
            return x + 1

        assert isolated(program)(1, fail=False) == 2
        with pytest.raises(KeyError, match="inside"):
            isolated(program)(1, fail=True)
        assert list(pyro.get_param_store().keys()) == ["kept"]

    def test_gradients_reach_the_module(self):
        program = Program(2)
        isolated(program)(torch.ones(1, 2)).sum().backward()
        assert torch.equal(program.weight_unconstrained.grad, program.weight)  # positive by an exponential


class TestSeeded:
    def test_a_seed_gives_the_same_draws_and_the_callers_go_on(self, device):
        torch.manual_seed(5)
        expected = torch.rand(3, device=device), torch.rand(3, device=device)
        torch.manual_seed(5)
        first = torch.rand(3, device=device)
        draws = []
        for seed in (1, 1, 2):
            with seeded(seed, device):
                draws.append(torch.rand(3, device=device))
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
        assert torch.equal(first, expected[0]) and torch.equal(torch.rand(3, device=device), expected[1])

    def test_none_leaves_the_generator_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        with seeded(None):
            assert torch.equal(torch.rand(3), expected)

    def test_it_is_given_back_after_an_exception(self):
        before = torch.get_rng_state()
        with pytest.raises(KeyError), seeded(0):
            torch.rand(3)
            raise KeyError
        assert torch.equal(torch.get_rng_state(), before)


class TestEvaluating:
    @pytest.mark.parametrize("fails", [False, True])
    def test_each_flag_comes_back_as_it_was(self, fails):
        first = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(1, 1), nn.Dropout()))
        second = nn.Dropout().eval()
        first[1].eval()
        first[1][1].train()
        before = [module.training for module in first.modules()]
        assert sorted(before) == [False, False, True, True, True]
        try:
            with evaluating(first, lambda x: x, second):
                assert not any(module.training for module in (*first.modules(), second))
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert [module.training for module in first.modules()] == before and not second.training


def test_frozen_parameters_raise_no_warning_about_the_store():
    """Pyro warns that a parameter without gradients is not in its store; a pair whose model is frozen is no mistake."""
    pair = pyro_vae.VAE((4,), 2, (5,))
    pair.model.requires_grad_(False)
    log_w = pyro_vae.log_weights(pair.model, pair.guide, torch.zeros(3, 4))
    log_w.sum().backward()
    assert all(parameter.grad is not None for parameter in pair.guide.parameters())
