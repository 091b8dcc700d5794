"""What is done to a graph before it is compiled leaves what it computes as it is."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from mpmath import mpf
from torch import nn

from pyro_vae import ELBO, VAE
from pyro_vae.compilation.passes import _log_prob, split_at_draws
from pyro_vae.compilation.tracing import trace
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.likelihoods.formulas import log_sigmoid
from tests.support.programs import IMAGE, bits, traced

X = torch.arange(6.0).reshape(3, 2)
LAYER = nn.Linear(2, 2)


def operations(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def log_prob(logits, x, num_event_dims):
    return [dist.Bernoulli(logits=logits, validate_args=False).to_event(num_event_dims).log_prob(x)]


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


class TestBernoulliInOnePass:
    @pytest.mark.parametrize(
        ("shape", "num_event_dims"), [((3, 32), 1), ((5, 3, 28, 28), 2), ((2, 3, 1, 8, 8), 3), ((3, 5), 1), ((16,), 1)]
    )
    def test_its_value(self, shape, num_event_dims, double):
        logits, x = 5 * torch.randn(shape), torch.bernoulli(torch.full(shape[-num_event_dims - 1 :], 0.3))
        logits.view(-1)[:4] = torch.tensor([-800.0, 800.0, 0.0, 60.0])
        with torch.no_grad():
            found = trace(lambda logits: log_prob(logits, x, num_event_dims), [], logits)
        assert "aten.binary_cross_entropy_with_logits.default" not in operations(found.graph.graph)
        torch.testing.assert_close(
            found.graph(logits, *found.tensors), log_prob(logits, x, num_event_dims), rtol=1e-13, atol=1e-13
        )

    def test_in_float32_it_is_as_exact_as_what_it_replaces(self):
        logits, x = 5 * torch.randn(50, 784), torch.bernoulli(torch.full((50, 784), 0.3))
        found = trace(lambda logits: log_prob(logits, x, 1), [], logits)
        exact = log_prob(logits.double(), x.double(), 1)[0]
        error = (found.graph(logits, *found.tensors)[0] - exact).abs().max()
        assert error < 2 * (log_prob(logits, x, 1)[0] - exact).abs().max()

    def test_its_gradient(self):
        logits, x = torch.randn(3, 32), torch.bernoulli(torch.full((3, 32), 0.3))
        layer = nn.Linear(32, 32)

        def gradient(inputs):
            (value,) = log_prob(layer(inputs), x, 1)
            return [value, *torch.autograd.grad(value.sum(), list(layer.parameters()))]

        found = trace(gradient, [layer], logits)
        for output, expected in zip(found.graph(logits, *found.tensors), gradient(logits), strict=True):
            torch.testing.assert_close(output, expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("bit", [0.0, 1.0])
    @pytest.mark.parametrize("logit", [0.0, 1e-3, -1e-3, 2.0, 15.0, 30.0, -30.0, 100.0, -100.0])
    def test_it_is_right_to_the_last_digits_of_each_type(self, logit, bit, dtype):
        """Also where all pixels are sure and right; a product of 16 factors of 2 is beyond float16."""
        logits, x = torch.full((2, 32), logit, dtype=dtype), torch.full((2, 32), bit, dtype=dtype)
        found = trace(lambda logits: log_prob(logits, x, 1), [], logits)
        assert "aten.exp.default" in operations(found.graph.graph)
        (value,) = found.graph(logits, *found.tensors)
        assert value.dtype == dtype
        exact = 32 * log_sigmoid(mpf(logits[0, 0].item()) * (1 if bit else -1))
        info = torch.finfo(dtype)
        smallest = info.smallest_normal * info.eps + 32 * 1.4e-45  # of its numbers, and of the 32 that are summed
        assert abs(mpf(value[0].item()) - exact) <= 4 * info.eps * abs(exact) + smallest

    def test_an_image_of_sure_pixels(self):
        logits, x = torch.full((1, 784), 15.0), torch.ones(1, 784)
        found = trace(lambda logits: log_prob(logits, x, 1), [], logits)
        assert found.graph(logits, *found.tensors)[0].item() == pytest.approx(-2.398e-4, rel=1e-3)

    def test_the_gradient_of_its_form(self):
        """Of a logit that is exactly 0 too, where the absolute value in it has none."""
        logits = torch.tensor([0.0, 0.0, 1e-3, -1e-3, 15.0, -15.0, 100.0, 0.0] * 2).requires_grad_()
        x = torch.tensor([0.0, 1.0] * 8)
        _log_prob(logits, x, 0, torch.float32).backward()
        torch.testing.assert_close(logits.grad, x - logits.detach().sigmoid(), rtol=1e-6, atol=1e-7)
        assert logits.grad[:2].tolist() == [-0.5, 0.5]

    def test_a_decoder_that_starts_at_zero_compiled(self):
        """All its logits are 0 at the first step; the graph is run as TorchInductor is given it."""
        x = bits(6)
        gradients = []
        pair = VAE(IMAGE, 2, (5,))
        (*_, output) = (layer for layer in pair.model.modules() if isinstance(layer, nn.Linear))
        with torch.no_grad():
            output.weight.zero_(), output.bias.zero_()
        for make in (EagerStep, functools.partial(CompiledStep, lower=traced)):
            step = make(pair.model, pair.guide, pair, ELBO())
            torch.manual_seed(3)
            with pyro.validation_enabled(False):
                step(x)
            gradients.append([parameter.grad.clone() for parameter in pair.parameters()])
        assert step.is_current()
        for expected, found in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(output.bias.grad, 0.5 - x.mean(0).flatten())

    @pytest.mark.parametrize(
        "function",
        [
            lambda logits, x: dist.Bernoulli(logits=logits, validate_args=False).log_prob(x),  # of each pixel
            lambda logits, x: dist.Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(0),  # over data
            lambda logits, x: dist.Bernoulli(logits=logits, validate_args=False).log_prob(x).mul(x).sum(-1),
            lambda logits, x: nn.functional.binary_cross_entropy_with_logits(logits, x),
            lambda logits, x: dist.Normal(logits, 1.0, validate_args=False).to_event(1).log_prob(x),
        ],
    )
    def test_other_sums_stay(self, function):
        logits, x = torch.randn(3, 32), torch.bernoulli(torch.full((3, 32), 0.3))
        found = trace(lambda logits: [function(logits, x)], [], logits)
        assert "aten.exp.default" not in operations(found.graph.graph)
        torch.testing.assert_close(found.graph(logits, *found.tensors)[0], function(logits, x))


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
