"""Functions of batches of several arguments: tensors are inputs of the graph, options take a trace each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.data.batch import Arguments, call
from tests.support.programs import traced

X, Y = torch.linspace(-1, 1, 12).reshape(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2))

    def forward(self, x, y, beta=1.0, mode=None):
        rows = self.weight[y] * x
        return beta * (rows.sum(-1) if mode == "sum" else rows.amax(-1))


def compiled(lower=traced):
    network = Network()
    return Compiled(lambda batch: [call(network, batch)], [network], lower=lower), network


def same(function, network, *args, **kwargs):
    return torch.equal(function(Arguments(*args, **kwargs))[0], network(*args, **kwargs))


def test_tensors_are_read_anew():
    function, network = compiled()
    for shift in range(3):
        assert same(function, network, X + shift, Y.roll(shift), torch.tensor(2.0 + shift))
    assert (function.num_traces, function.reason, len(function.last.trace.tensors)) == (1, None, 1)


def test_compiled_further():
    function, network = compiled(lower=None)
    for shift in range(2):
        batch = Arguments(X + shift, y=Y.roll(shift))
        torch.testing.assert_close(function(batch)[0], call(network, batch))
    assert (function.num_traces, function.reason) == (1, None)


def test_another_option_takes_another_trace():
    function, network = compiled()
    for _ in range(2):
        for options in ({}, {"beta": 0.5}, {"beta": 0.5, "mode": "sum"}, {"beta": 2.0, "mode": "sum"}, {"mode": None}):
            assert same(function, network, X, Y, **options)
            assert same(function, network, X + 1, Y, **options)
    assert (function.num_traces, function.reason) == (5, None)


def test_equal_options_of_another_type_take_another_trace():
    function = Compiled(
        lambda batch: [call(lambda x, option: x * (1 if option is True else 2), batch)], [], lower=traced
    )
    for option, factor in ((True, 1), (1, 2), (1.0, 2), (True, 1)):
        assert torch.equal(function(Arguments(X, option))[0], factor * X)


def test_tensors_of_another_form_run_as_they_are():
    function, network = compiled()
    assert same(function, network, X, Y)
    assert same(function, network, X.double(), Y) and same(function, network, X, Y.int())
    assert same(function, network, X[:3], Y[:3])
    assert (function.num_traces, function.reason) == (1, None)


def test_one_tensor_given_twice():
    function = Compiled(lambda batch: [call(lambda x, y: 2 * x + y, batch)], [], lower=traced)
    for x, y in ((X, X), (X, X + 1), (X + 2, X)):
        assert torch.equal(function(Arguments(x, y))[0], 2 * x + y)
    assert (function.num_traces, function.reason) == (1, None)


def test_options_that_never_come_back():
    function, network = compiled()
    with pytest.warns(UserWarning, match=r"changed again: an option of the batch, found \(\(6, 2\), \(6,\), 8.0\)"):
        for beta in range(12):
            assert same(function, network, X, Y, float(beta))


def test_options_that_cannot_be_compared():
    function = Compiled(lambda batch: [call(lambda x, names: 2 * x, batch)], [], lower=traced)
    with pytest.warns(UserWarning, match="is not compiled: a batch holds a list, expected tensors, numbers, strings"):
        assert torch.equal(function(Arguments(X, ["a"]))[0], 2 * X)
    assert torch.equal(function(Arguments(X, ["b"]))[0], 2 * X)
