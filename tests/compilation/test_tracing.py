"""Graphs of functions: their inputs, what is computed once, and what cannot be trusted to be a graph."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae.compilation.tracing import UntraceableError, trace

X = torch.arange(6.0).reshape(3, 2)
LAYER = nn.Linear(2, 2)
TABLE = torch.tensor([1.0, 2.0])


def operations(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


class TestTrace:
    def test_its_inputs_are_the_batch_and_every_tensor_there_was(self):
        found = trace(lambda x: [LAYER(x) * TABLE], [LAYER], X)
        assert {id(tensor) for tensor in found.tensors} == {id(LAYER.weight), id(LAYER.bias), id(TABLE)}
        others = [torch.rand_like(tensor) for tensor in found.tensors]
        values = {id(tensor): other for tensor, other in zip(found.tensors, others, strict=True)}
        expected = (X @ values[id(LAYER.weight)].T + values[id(LAYER.bias)]) * values[id(TABLE)]
        torch.testing.assert_close(found.graph(X, *others)[0], expected)

    def test_outputs_that_are_none_are_left_out(self):
        found = trace(lambda x: [None, x + 1, None], [], X)
        assert found.given == [False, True, False]
        assert len(found.graph(X, *found.tensors)) == 1

    def test_gradients_are_part_of_it(self):
        def gradient(x):
            return torch.autograd.grad(LAYER(x).tanh().sum(), list(LAYER.parameters()))

        found = trace(gradient, [LAYER], X)
        for value, expected in zip(found.graph(X, *found.tensors), gradient(X), strict=True):
            torch.testing.assert_close(value, expected)

    def test_it_moves_neither_generators_nor_buffers(self):
        norm = nn.BatchNorm1d(2)
        state = torch.get_rng_state()
        trace(lambda x: [norm(x) + torch.rand_like(x)], [norm], X)
        assert torch.equal(torch.get_rng_state(), state)
        assert norm.num_batches_tracked == 0 and not norm.running_mean.any()

    def test_what_is_computed_twice_is_computed_once(self):
        found = trace(lambda x: [LAYER(x).exp() + LAYER(x).sin()], [LAYER], X)
        assert operations(found.graph.graph).count("aten.addmm.default") == 1

    def test_two_draws_of_one_shape_stay_two(self):
        found = trace(lambda x: [torch.empty(3).normal_() - torch.empty(3).normal_(), x], [], X)
        assert found.graph(X)[0].abs().min() > 0

    def test_a_tensor_that_is_changed_between_two_reads_is_read_twice(self):
        total = torch.zeros(2)

        def function(x):
            first = total * 1
            total.add_(x.sum(0))
            return [first, total * 1]

        found = trace(function, [], X)
        first, second = found.graph(X, *found.tensors)
        assert first.tolist() == [0.0, 0.0] and second.tolist() == [6.0, 9.0]

    def test_outputs_share_no_memory(self):
        found = trace(lambda x: [x.sum(0), x.sum(0), x.sum(0).view(2, 1), x.T], [], X)
        places = [output.untyped_storage().data_ptr() for output in found.graph(X)]
        assert len({*places, X.untyped_storage().data_ptr()}) == 5


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, x):
        self.count += 1
        return x * self.count


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = [torch.zeros(3, 2)]

    def forward(self, x):
        self.seen.append(x)
        return x + self.seen[-2]


BRANCHES = {
    "if": lambda x: x if x.sum() > 3 else -x,
    "item of a batch": lambda x: x * x[0, 0].item(),
    "item of a parameter": lambda x: x * LAYER.bias[0].item(),
    "float": lambda x: x * float(LAYER.bias[0]),
    "tolist": lambda x: x * TABLE.tolist()[0],
    "numpy": lambda x: x * float(LAYER.bias.detach().numpy()[0]),
    "an index": lambda x: x[: int(TABLE[0])],
    "nonzero": lambda x: x[x > 1],
}
OTHER_GENERATORS = {
    "random": lambda x: x * random.random(),
    "numpy.random": lambda x: x * float(np.random.rand()),
}


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", BRANCHES)
    def test_what_reads_values(self, name):
        with pytest.raises(Exception, match=r"reads the value of a tensor|DynamicOutputShape|nonzero"):
            trace(lambda x: [BRANCHES[name](x)], [LAYER], X)

    @pytest.mark.parametrize("name", OTHER_GENERATORS)
    def test_what_draws_elsewhere(self, name):
        state, other = random.getstate(), np.random.get_state()
        with pytest.raises(UntraceableError, match=r"^it draws from Python's or NumPy's generator$"):
            trace(lambda x: [OTHER_GENERATORS[name](x)], [], X)
        random.setstate(state), np.random.set_state(other)

    def test_what_changes_a_number_of_its_own(self):
        module = Counting()
        with pytest.raises(UntraceableError, match=r"attribute 'count' of Counting \(found 1, it was 0\)$"):
            trace(lambda x: [module(x)], [module], X)
        assert module.count == 0

    def test_what_keeps_tensors_of_its_own(self):
        module = Keeping()
        with pytest.raises(UntraceableError, match=r"attribute 'seen.1' of Keeping"):
            trace(lambda x: [module(x)], [module], X)
        assert len(module.seen) == 1
