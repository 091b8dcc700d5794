"""Dense networks: the formula, shapes under any leading dimensions, how weights start, batch normalisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyro_vae.nn.mlp import MLP, ConditionalMLP

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "sigmoid": torch.sigmoid,
}


class TestMLP:
    @pytest.mark.parametrize(("name", "function"), ACTIVATIONS.items(), ids=ACTIVATIONS)
    def test_it_is_the_formula(self, name, function, double):
        network = MLP((2, 3), (2, 2), hidden_dims=(5, 4), activation=name)
        x = torch.randn(7, 2, 3)
        (w1, b1, w2, b2, w, b) = network.parameters()
        h = function(function(x.reshape(7, 6) @ w1.T + b1) @ w2.T + b2)
        torch.testing.assert_close(network(x), (h @ w.T + b).reshape(7, 2, 2), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("hidden_dims", [(), (3,), [3, 4, 5, 6]])
    @pytest.mark.parametrize("batch_shape", [(), (5,), (3, 5), (2, 3, 5)])
    def test_any_depth_and_any_leading_dimensions(self, hidden_dims, batch_shape, double):
        network = MLP((2, 3), 4, hidden_dims)
        assert [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)] == [*hidden_dims, 4]
        x = torch.randn(*batch_shape, 2, 3)
        y = network(x)
        assert y.shape == (*batch_shape, 4)
        flat = torch.stack([network(row) for row in x.reshape(-1, 2, 3)])
        torch.testing.assert_close(y.reshape(-1, 4), flat, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_weights_start_as_glorots_or_hes_and_biases_at_zero(self, activation):
        # Uniform on [-a, a]. The largest of 20,000 draws is below 0.999 a with probability 0.999^20000 = 2e-9; the
        # variance a²/3 has a relative standard error of 0.63 %, and 4 % are 6.3 of them (3e-10).
        first, output = [m for m in MLP(200, 100, (200,), activation).modules() if isinstance(m, nn.Linear)]
        bounds = {first: math.sqrt(6 / 400) if activation == "tanh" else math.sqrt(6 / 200), output: math.sqrt(6 / 300)}
        for layer, bound in bounds.items():
            assert 0.999 * bound < layer.weight.abs().max().item() <= bound
            assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.04)
            assert (layer.bias == 0).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"activation": "swish"},
                "activation: found 'swish', expected one of 'tanh', 'relu', 'leaky_relu', 'elu', 'gelu'",
            ),
            ({"in_shape": (2, 0)}, r"in_shape: found \(2, 0\), expected positive integers"),
            ({"out_shape": -1}, "out_shape: found -1, expected positive integers"),
            ({"hidden_dims": (3, 2.5)}, r"hidden_dims: found \(3, 2.5\), expected positive integers"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            MLP(**({"in_shape": 2, "out_shape": 2, "hidden_dims": (3,)} | arguments))

    @pytest.mark.parametrize("shape", [(5, 3, 2), (5, 6), (3,), ()])
    def test_an_input_of_another_shape(self, shape):
        with pytest.raises(ValueError, match=r"^MLP: found an input of shape \(.*\), expected \(\*batch, 2, 3\)$"):
            MLP((2, 3), 4, (5,))(torch.zeros(shape))

    def test_without_an_output_the_last_hidden_layer_is_it(self, double):
        network = MLP((2, 3), None, (5, 4))
        (w1, b1, w2, b2) = network.parameters()
        x = torch.randn(3, 7, 2, 3)
        expected = torch.tanh(torch.tanh(x.flatten(-2) @ w1.T + b1) @ w2.T + b2)
        assert network.out_shape == (4,)
        torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-14)
        with pytest.raises(ValueError, match="^out_shape: found None and no hidden layer, expected one of the two$"):
            MLP(2, None, ())


class TestBatchNorm:
    @pytest.mark.parametrize("batch_shape", [(20,), (4, 5), (2, 2, 5)])
    def test_it_normalises_over_all_leading_dimensions_before_the_activation(self, batch_shape, double):
        network = MLP((2, 3), 4, (5,), batch_norm=True)
        x = torch.randn(20, 2, 3)
        linear, norm, output = network.hidden[0], network.hidden[1], network.output
        with torch.no_grad():
            norm.weight.uniform_(), norm.bias.uniform_()
            h = linear(x.flatten(1))
            h = (h - h.mean(0)) / (h.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
            expected = output(torch.tanh(h))
            y = network(x.reshape(*batch_shape, 2, 3))
        torch.testing.assert_close(y, expected.reshape(*batch_shape, 4), rtol=1e-10, atol=1e-12)

    def test_in_eval_mode_a_datum_is_by_itself_and_no_statistic_moves(self, double):
        network = MLP(3, 4, (5, 6), batch_norm=True)
        for _ in range(3):
            network(1 + 2 * torch.randn(50, 3))
        buffers = [buffer.clone() for buffer in network.buffers()]
        network.eval()
        x = torch.randn(2, 5, 3)
        torch.testing.assert_close(network(x)[1, 2], network(x[1, 2]), rtol=1e-12, atol=1e-14)
        assert all(torch.equal(before, after) for before, after in zip(buffers, network.buffers(), strict=True))
        assert not torch.equal(network(x), network.train()(x))

    def test_it_is_at_each_hidden_layer_and_nowhere_else(self):
        kinds = [type(module).__bases__[0] for module in MLP(3, 4, (5, 6), batch_norm=True).hidden]
        assert kinds.count(nn.BatchNorm1d) == 2 and kinds[1] is kinds[4] is nn.BatchNorm1d
        affine = MLP(3, 4, (), batch_norm=True)
        assert list(affine.buffers()) == [] and len(list(affine.parameters())) == 2


class TestConditionalMLP:
    @pytest.mark.parametrize(("name", "function"), ACTIVATIONS.items(), ids=ACTIVATIONS)
    def test_it_is_the_formula(self, name, function, double):
        network = ConditionalMLP((2, 3), 4, (2, 5), (7, 6), name)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        x, z = torch.randn(8, 2, 3), torch.randn(8, 4)
        (w1, b1), (w2, b2), (w3, b3), (v, c), (w, b) = [
            (m.weight, m.bias) for m in network.modules() if isinstance(m, nn.Linear)
        ]
        g = function(function(x.flatten(1) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
        expected = (function(g + z @ v.T + c) @ w.T + b).reshape(8, 2, 5)
        torch.testing.assert_close(network(x, z), expected, rtol=1e-12, atol=1e-14)

    def test_without_hidden_layers_it_is_affine(self, double):
        network = ConditionalMLP((2, 3), 4, (2, 5), ())
        x, z = torch.randn(8, 2, 3), torch.randn(8, 4)
        (v, b), (w, c) = [(m.weight, m.bias) for m in network.modules() if isinstance(m, nn.Linear)]
        expected = (x.flatten(1) @ v.T + b + z @ w.T + c).reshape(8, 2, 5)
        torch.testing.assert_close(network(x, z), expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("hidden_dims", [(), (7,), (7, 6)])
    def test_one_datum_meets_all_of_its_particles_and_is_looked_at_once(self, hidden_dims, double):
        network = ConditionalMLP((2, 3), (4,), (2, 5), hidden_dims)
        x, z = torch.randn(8, 2, 3), torch.randn(11, 8, 4)
        rows = []
        network.from_x.register_forward_hook(lambda module, given, output: rows.append(len(given[0])))
        y = network(x, z)
        assert y.shape == (11, 8, 2, 5) and rows == [8]
        torch.testing.assert_close(y, torch.stack([network(x, particle) for particle in z]), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize(
        ("x", "z", "message"),
        [
            ((8, 3, 3), (8, 4), r"MLP: found an input of shape \(8, 3, 3\), expected \(\*batch, 2, 3\)$"),
            ((8, 2, 3), (8, 5), r"MLP: found an input of shape \(8, 5\), expected \(\*batch, 4\)$"),
        ],
    )
    def test_inputs_of_another_shape(self, x, z, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            ConditionalMLP((2, 3), 4, (2, 5), (7,))(torch.zeros(x), torch.zeros(z))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"activation": "swish"}, "activation: found 'swish', expected one of 'tanh'"),
            ({"out_shape": (2, 0)}, r"out_shape: found \(2, 0\), expected positive integers"),
            ({"hidden_dims": (3, -1)}, r"hidden_dims: found \(3, -1\), expected positive integers"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        sizes = {"x_shape": 2, "z_shape": 3, "out_shape": 2, "hidden_dims": (3,)}
        with pytest.raises(ValueError, match=message):
            ConditionalMLP(**(sizes | arguments))
