"""Layers that the package's own kernels compute are the layers, forward and backward.

On a CPU the operations that replace them are computed by torch, which tests what is done to the graph; the kernels run
in Triton's interpreter. What a GPU makes of both is tested where there is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_vae import ELBO, VAE
from pyro_vae.compilation import compiled as compilation
from pyro_vae.compilation import layer_kernels, layers, products
from pyro_vae.compilation.products import replace_layers
from pyro_vae.compilation.tracing import trace
from pyro_vae.training.checkpoint import as_module
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.support.programs import PAIRS, bits, check_close

pytestmark = pytest.mark.usefixtures("without_validation")

NETWORK = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
KERNELS = {layers.LAYER: "layer", layers.LAYER_BACKWARD: "layer_backward"}
X = bits(6)


def gradients(x):
    """The output of a network, and the gradients of its weights and its input."""
    x = x.detach().requires_grad_()
    y = NETWORK(x)
    return [y, *torch.autograd.grad(y.exp().sum(), [*NETWORK.parameters(), x])]


def operations(graph):
    return [KERNELS.get(node.target, str(node.target)) for node in graph.graph.nodes if node.op == "call_function"]


def test_what_is_replaced():
    x = torch.randn(7, 5)
    found = trace(gradients, [NETWORK], x)
    before = str(found.graph.graph)
    replaced = replace_layers(found.graph, "tf32x3")
    assert str(found.graph.graph) == before
    names = operations(replaced)
    assert names.count("layer") == names.count("layer_backward") == 2
    assert names.count("aten.mm.default") == 3  # the layer without a bias
    assert not {"aten.tanh.default", "aten.tanh_backward.default", "aten.addmm.default"} & set(names)
    for output, expected in zip(replaced(x, *found.tensors), gradients(x), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("_MOST_DATA", 6), ("_MOST_FEATURES", 2), ("_MOST_VALUES", 20), ("_MOST_WEIGHTS", 11)]
)
def test_large_ones_are_left(monkeypatch, name, value):
    monkeypatch.setattr(products, name, value)
    x = torch.randn(7, 5)
    found = trace(gradients, [NETWORK], x)
    assert operations(replace_layers(found.graph, "tf32x3")) == operations(found.graph)


def test_other_types_are_left(double):
    layer = nn.Linear(5, 4)
    found = trace(lambda x: [layer(x)], [layer], torch.randn(7, 5))
    assert operations(replace_layers(found.graph, "tf32x3")) == operations(found.graph)


def test_nothing_moves_past_a_change_in_place():
    weight = nn.Parameter(torch.randn(4, 5))
    x, moved = torch.randn(7, 5), torch.ones(7, 4)

    def function(x):
        g = moved * 2
        total = g.sum(0, keepdim=True)
        x = x * 1
        with torch.no_grad():
            x.add_(1)
        return [total, g.t() @ x, g @ weight]

    found = trace(function, [], x)
    assert "layer_backward" not in operations(replace_layers(found.graph, "tf32x3"))


def test_a_gradient_that_another_product_reads():
    """Only the weight of the layer itself gives the gradient of its input."""
    x, other = torch.randn(7, 5), torch.randn(4, 3)

    def function(x):
        g = x[:, :4] * 2
        return [g.sum(0, keepdim=True), g.t() @ x, g @ other]

    found = trace(function, [], x)
    replaced = replace_layers(found.graph, "tf32x3")
    for output, expected in zip(replaced(x, *found.tensors), function(x), strict=True):
        torch.testing.assert_close(output, expected)


def outcome(step, pair, x, seed):
    torch.manual_seed(seed)
    bounds = step(x)
    return {"bounds": bounds} | {name: parameter.grad for name, parameter in pair.named_parameters()}


def both(make, x, seeds=(1, 2), **options):
    """What steps with some seeds give, eager and compiled, of pairs with equal weights."""
    results = []
    for kind in (EagerStep, CompiledStep):
        torch.manual_seed(7)
        model, guide = make()
        pair = as_module((model, guide)).to(x.device).train()
        step = kind(model, guide, pair, ELBO(), **(options if kind is CompiledStep else {}))
        results.append([outcome(step, pair, x, seed) for seed in seeds])
    return results


def make_vae(*sizes):
    vae = VAE(*sizes)
    return vae.model, vae.guide


@pytest.mark.parametrize(
    "compiled",
    [pytest.param(False, id="the graph"), pytest.param(True, id="compiled by Inductor", marks=pytest.mark.cross)],
)
def test_a_step_is_the_step(compiled):
    seen = []

    def lower(graph, inputs):
        replaced = replace_layers(graph, "tf32x3")
        seen.extend(operations(replaced))
        return compilation.inductor(replaced, inputs) if compiled else replaced

    for expected, found in zip(*both(lambda: make_vae((4, 4), 2, (6,)), X, lower=lower), strict=True):
        check_close(found, expected, rtol=1e-5, atol=1e-6)
    assert seen.count("layer") == seen.count("layer_backward") == 4 and "aten.addmm.default" not in seen


@pytest.mark.parametrize("name", ["tutorial", "hvae", "ladder-batch-norm"])
def test_other_programs(name):
    results = both(PAIRS[name], X, lower=lambda graph, _: replace_layers(graph, "tf32"))
    for expected, found in zip(*results, strict=True):
        check_close(found, expected, rtol=1e-4, atol=1e-5)


INTERPRETED = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("layer_kernels", sys.argv[1])
kernels = sys.modules["layer_kernels"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
for num_data, num_in, num_out, precision in [(35, 301, 37, "tf32x3"), (33, 37, 35, "tf32")]:
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
    x, weight, bias, g, y = draw(num_data, num_in), draw(num_out, num_in) / 20, draw(num_out), \
        draw(num_out, num_data).t(), draw(num_data, num_in)
    single = lambda *tensors: [tensor.float() for tensor in tensors]
    for tanh in (False, True):
        out, launch = kernels.forward(*single(x, weight, bias), tanh, precision)
        launch.run()
        expected = x @ weight.t() + bias
        torch.testing.assert_close(out.double(), expected.tanh() if tanh else expected, rtol=2e-5, atol=2e-5)
    for w, t in ((None, None), (weight, None), (weight, y)):
        arguments = single(g)[0], None if w is None else w.float(), x.float(), None if t is None else t.float()
        (dx, dw, db), launch = kernels.backward(*arguments, precision)
        launch.run()
        torch.testing.assert_close(dw.double(), g.t() @ x, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(db.double(), g.sum(0), rtol=2e-5, atol=2e-5)
        if w is not None:
            exact = g @ weight * (1 if t is None else 1 - y**2)
            torch.testing.assert_close(dx.double(), exact, rtol=2e-5, atol=2e-5)
"""


@pytest.mark.cross
@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton for this platform")
def test_the_kernels_in_the_interpreter():
    """Sizes that are no multiples of a tile; the interpreter multiplies in float32."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, str(Path(layer_kernels.__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


class TestFuseSmallProducts:
    @pytest.fixture
    def graph(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(products, "find_spec", lambda name: True)
        return trace(gradients, [NETWORK], torch.randn(7, 5)).graph

    @pytest.mark.parametrize(("precision", "kernels"), [("highest", "tf32x3"), ("high", "tf32"), ("medium", "tf32")])
    def test_the_precision_is_torchs(self, graph, monkeypatch, precision, kernels):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
        replaced = products.fuse_small_products(graph, torch.device("cpu"))
        found = [node for node in replaced.graph.nodes if node.target in KERNELS]
        assert len(found) == 4 and {node.args[-1] for node in found} == {kernels}

    def test_wrong_kernels_are_not_used(self, graph, monkeypatch):
        def wrong(x, *args):
            return layers._layer_by_torch(x, *args) * (1 + 1e-5)

        monkeypatch.setitem(layers.BY_TORCH, layers.LAYER, wrong)
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
        with pytest.warns(
            UserWarning, match="left to cuBLAS: RuntimeError: the kernel of pyro_vae.layer.default is wr"
        ):
            assert products.fuse_small_products(graph, torch.device("cpu")) is graph

    def test_where_there_are_none(self, graph, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(products, "find_spec", lambda name: None)
            assert products.fuse_small_products(graph, torch.device("cpu")) is graph
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert products.fuse_small_products(graph, torch.device("cpu")) is graph


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("highest", 1e-5), ("high", 2e-2)])
def test_a_step_on_a_gpu(precision, tolerance, monkeypatch):
    seen, before = [], torch.get_float32_matmul_precision()

    def fuse(graph, device):
        seen.append(products.fuse_small_products(graph, device))
        return seen[-1]

    monkeypatch.setattr(compilation, "fuse_small_products", fuse)
    torch.set_float32_matmul_precision(precision)
    x = torch.rand(100, 28, 28, generator=torch.Generator().manual_seed(1)).round().cuda()
    try:
        results = both(lambda: make_vae((28, 28), 50, (400,)), x, (1, 1, 2))
    finally:
        torch.set_float32_matmul_precision(before)
    assert operations(seen[0]).count("layer") == operations(seen[0]).count("layer_backward") == 4
    for name, value in results[1][0].items():
        assert torch.equal(value, results[1][1][name])  # the same draws, the same bits
    for expected, found in zip(*results, strict=True):
        for name, value in expected.items():
            assert (found[name] - value).norm() <= tolerance * value.norm(), name
