"""What is done to a graph before it is compiled leaves what it computes as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.compilation.passes import split_at_draws
from pyro_vae.compilation.tracing import trace

X = torch.arange(6.0).reshape(3, 2)
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


class TestSplitAtDraws:
    def test_the_products_before_a_draw_come_first(self):
        def function(x):
            h = LAYER(x)
            return [LAYER((h + torch.randn(5, 3, 2)).tanh()) + h.exp()]

        found = trace(function, [LAYER], X)
        before, after = split_at_draws(found.graph.graph)
        assert operations(before.graph).count("aten.addmm.default") == 1
        assert "aten.randn.default" not in operations(before.graph)
        assert operations(after.graph).count("aten.mm.default") == 1 and "aten.addmm.default" not in operations(
            after.graph
        )
        products = before(X, *found.tensors)
        for _ in range(2):  # on new draws
            state = torch.get_rng_state()
            split = after(X, *found.tensors, *products)
            torch.set_rng_state(state)
            torch.testing.assert_close(split, found.graph(X, *found.tensors))

    def test_a_graph_that_writes_is_left_whole(self):
        total = torch.zeros(2)
        found = trace(lambda x: [total.add_(LAYER(x).detach().sum(0)) + torch.randn(2)], [LAYER], X)
        before, after = split_at_draws(found.graph.graph)
        assert before(X, *found.tensors) == []
        assert operations(after.graph) == operations(found.graph.graph)
