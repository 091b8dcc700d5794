"""What a run in a store of its own takes from the caller's, and leaves in it."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.distributions import constraints
from torch import nn

from pyro_vae.errors import ProgramError
from pyro_vae.inference.isolation import isolated, kept_in_store, refusing_others


def program():
    return pyro.param("scale", torch.ones(2), constraint=constraints.positive)


def test_what_is_kept_are_the_tensors_of_bare_params_themselves():
    layer = nn.Linear(1, 1)
    pyro.module("layer", layer)
    leaf = program().unconstrained()
    kept = kept_in_store()
    assert kept["params"].keys() == kept["constraints"].keys() == {"scale"} and kept["params"]["scale"] is leaf
    assert isolated(program)().unconstrained() is leaf
    marks = [value.unconstrained() for value in pyro.get_param_store().values()]  # by which SVI knows them
    assert marks == [layer.weight, layer.bias, leaf]


class TestOthers:
    def test_one_that_is_declared_in_a_run_is_refused(self):
        message = r"^parameter 'scale': found for the first time after training had begun"
        with pytest.raises(ProgramError, match=message), refusing_others([]):
            isolated(program)()
        assert len(pyro.get_param_store()) == 0
        isolated(program)()  # and not afterwards

    def test_one_of_a_stranger_in_the_store_is_no_value_for_it(self):
        program()
        with refusing_others([]), pytest.raises(ProgramError, match="^parameter 'scale'"):
            isolated(program)()
        isolated(lambda: None)()
        assert list(pyro.get_param_store()) == ["scale"]

    def test_a_network_that_is_registered_late_is_refused(self):
        layer = nn.Linear(1, 1)
        run = isolated(lambda: pyro.module("layer", layer))
        with refusing_others(layer.parameters()):
            run()
        with refusing_others([layer.weight]), pytest.raises(ProgramError, match="^parameter 'layer.bias'"):
            run()
        layer.bias.requires_grad_(False)
        with refusing_others([layer.weight]):
            layer.eval()
            run()

    def test_those_that_are_known_pass(self):
        with refusing_others([program().unconstrained()]):
            assert isolated(program)().requires_grad
