"""Bare parameters that fit refuses or takes, and plates of a fixed size, which take no smaller last batch."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae import ProgramError
from tests.support.programs import bits, refused
from tests.support.writings import DIM, as_bare, as_methods, as_modules, guide_of, start_of
from tests.training.test_callables import X, fit


class TestBareParameters:
    def test_one_that_is_declared_later_is_refused(self):
        calls = []

        def guide(x):
            calls.append(len(x))
            late = pyro.param("late", torch.zeros(1)) if len(calls) > 8 else 0.0
            guide_of(x, *(pyro.param(name, value) for name, value in start_of("ac").items()), torch.ones(1) + late)

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
                guide_of(x, *(pyro.param(name, value) for name, value in start_of("act").items()))

        fit(as_methods()[0], Guide())
        assert sorted(pyro.get_param_store()) == ["a", "c", "t"]
        assert not torch.equal(pyro.param("a"), start_of("a")["a"])


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
        with pytest.raises(ValueError, match=r"^site 'x': found a value of shape \(5, 3\) in the model"):
            fit(*self.program(3), batch_size=5)


def test_programs_without_parameters_are_refused(tmp_path):
    class Empty(PyroModule):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Bernoulli(0.5).expand(x.shape[1:]).to_event(2), obs=x)

    class Nothing(PyroModule):
        def forward(self, x):
            pass

    refused(Empty(), Nothing(), bits(24), ValueError, "^model, guide: found no parameter to train", tmp_path)
