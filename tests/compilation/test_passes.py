"""What is done to a graph before it is compiled leaves what it computes as it is."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from pyro_vae.compilation.passes import add_biases_apart
from pyro_vae.compilation.tracing import trace

LAYER = nn.Linear(2, 2)


def operations(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


class TestAddBiasesLater:
    @pytest.mark.parametrize(("shape", "later"), [((3, 2), False), ((5, 3, 2), True), ((4, 5, 3, 2), True)])
    def test_only_where_there_is_a_place_for_it(self, shape, later):
        x = torch.randn(shape)
        found = trace(lambda x: [LAYER(x), LAYER(x).tanh() * 2], [LAYER], x)
        assert ("aten.mm.default" in operations(found.graph.graph)) is later
        for output, expected in zip(found.graph(x, *found.tensors), [LAYER(x), LAYER(x).tanh() * 2], strict=True):
            torch.testing.assert_close(output, expected)

    def test_its_gradient(self):
        x = torch.randn(4, 3, 2)

        def gradient(x):
            return torch.autograd.grad(LAYER(LAYER(x).tanh()).exp().sum(), list(LAYER.parameters()))

        found = trace(gradient, [LAYER], x)
        assert "aten.addmm.default" not in operations(found.graph.graph)
        for output, expected in zip(found.graph(x, *found.tensors), gradient(x), strict=True):
            torch.testing.assert_close(output, expected)

    def test_not_where_the_outputs_are_cut_in_pieces(self):
        x = torch.randn(3, 2)
        found = trace(lambda x: [LAYER(x).view(3, 2, 1).exp()], [LAYER], x)
        assert "aten.addmm.default" in operations(found.graph.graph)
        torch.testing.assert_close(found.graph(x, *found.tensors)[0], LAYER(x).view(3, 2, 1).exp())


def both_and_gradients(x):
    outputs = [LAYER(x), LAYER(LAYER(x).tanh())]
    return [*outputs, *torch.autograd.grad(outputs[1].exp().sum(), list(LAYER.parameters()))]


class TestAddBiasesApart:
    def test_it_changes_no_value_and_no_gradient(self):
        x = torch.randn(3, 2)
        found = trace(both_and_gradients, [LAYER], x)
        before = found.graph(x, *found.tensors)
        assert "aten.addmm.default" in operations(found.graph.graph)
        add_biases_apart(found.graph.graph)
        found.graph.recompile()
        assert "aten.addmm.default" not in operations(found.graph.graph)
        for output, was, expected in zip(found.graph(x, *found.tensors), before, both_and_gradients(x), strict=True):
            torch.testing.assert_close(output, was, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(output, expected)

    def test_not_what_differs_between_rows(self):
        x, rows = torch.randn(3, 2), torch.randn(3, 2)
        found = trace(lambda x: [torch.addmm(rows, x, LAYER.weight)], [LAYER], x)
        add_biases_apart(found.graph.graph)
        assert "aten.addmm.default" in operations(found.graph.graph)

    def test_the_compiler_does_not_undo_it(self):
        x = torch.randn(3, 2)
        found = trace(lambda x: [LAYER(x).tanh()], [LAYER], x)
        add_biases_apart(found.graph.graph)
        found.graph.recompile()
        seen = []
        options = {"post_grad_custom_post_pass": lambda graph: seen.extend(operations(graph)), "fx_graph_cache": False}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's news of its own parts
            run = torch._inductor.compile(found.graph, [x, *found.tensors], options=options)
            torch.testing.assert_close(run(x, *found.tensors)[0], LAYER(x).tanh())
        assert "aten.mm.default" in seen
        assert "aten.addmm.default" not in seen
