"""Parameters that are not contiguous are trained like others: their twin, with the same values, ends at the same ones.

Pyro's parameter store keeps a contiguous copy of such a parameter, which no module uses.
"""

from __future__ import annotations

import functools
import re

import pyro
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError
from tests.support.pairwise import in_turn
from tests.support.programs import PAIRS, bits, weights

X = bits(24)


def column_major(module):
    """A solution of linear equations, as torch.linalg.solve leaves it, has its columns one after the other."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            identity = torch.eye(len(layer.weight), dtype=layer.weight.dtype)
            layer.weight = nn.Parameter(torch.linalg.solve(identity, layer.weight.detach()))
    return module


def channels_last(module):
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)
    return module


LAYOUTS = {
    "column-major": ("hierarchy", column_major),
    "a packaged program": ("bernoulli-mlp", column_major),
    "channels last": ("bernoulli-convolutional", channels_last),
}


def twins(layout):
    """Two pairs of the same float64 weights, the second as it is laid out."""
    name, lay_out = LAYOUTS[layout]
    pairs = []
    for change in (lambda module: module, lay_out):
        torch.manual_seed(7)
        pairs.append([change(half.double()) for half in PAIRS[name]()])
    assert all(p.is_contiguous() for half in pairs[0] for p in half.parameters())
    return pairs


def strided(pair):
    found = {n: p for half in pair for n, p in half.named_parameters() if not p.is_contiguous()}
    assert found
    return found


def fit(pair, **options):
    options = {"num_epochs": 4, "batch_size": 6, "lr": 0.02, "seed": 0, "progress": False} | options
    return pyro_vae.fit(*pair, X.double(), **options)


def check_same(pair, expected):
    for found, half in zip(pair, expected, strict=True):
        for name, value in weights(half).items():
            torch.testing.assert_close(weights(found)[name], value, rtol=1e-8, atol=1e-10)


OBJECTIVES = {"elbo": ELBO(), "dreg": IWAE(3, gradient="dreg"), "pyro": pyro.infer.Trace_ELBO()}


@pytest.mark.parametrize(("layout", "objective"), in_turn(LAYOUTS, OBJECTIVES))
def test_fit_trains_them(layout, objective):
    expected, pair = twins(layout)
    before = {name: p.detach().clone() for name, p in strided(pair).items()}
    strides = {name: p.stride() for name, p in strided(pair).items()}
    reference, history = (fit(each, objective=OBJECTIVES[objective]) for each in (expected, pair))
    check_same(pair, expected)
    assert history.records[-1]["train_bound"] == pytest.approx(reference.records[-1]["train_bound"], rel=1e-9)
    assert history.records[-1]["train_bound"] > history.records[0]["train_bound"]
    for name, p in strided(pair).items():
        assert (p - before[name]).abs().max() > 0.01 and p.stride() == strides[name]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled(layout, only_traced):
    expected, pair = twins(layout)
    fit(expected, compile=False)
    fit(pair, compile=True)
    check_same(pair, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_run(layout, tmp_path):
    """Half of the epochs, and from their files the others, by a pair that starts from other weights."""
    expected, pair = twins(layout)
    fit(expected)
    fit(pair, num_epochs=2, checkpoint=tmp_path)
    _, other = twins(layout)
    with torch.no_grad():
        for parameter in strided(other).values():
            parameter.zero_()
    fit(other, checkpoint=tmp_path, resume=True)
    check_same(other, expected)


def test_a_view_of_every_other_column():
    """An optimiser that steps through memory would write between the columns."""
    expected, pair = twins("column-major")
    whole = {}
    for layer in [layer for half in pair for layer in half.modules() if isinstance(layer, nn.Linear)]:
        whole[layer] = torch.stack([layer.weight.detach(), torch.zeros_like(layer.weight)], -1)
        layer.weight = nn.Parameter(whole[layer][..., 0])
    fit(expected), fit(pair)
    check_same(pair, expected)
    assert all((memory[..., 1] == 0).all() for memory in whole.values())


def test_a_fused_optimizer_is_refused():
    _, pair = twins("column-major")
    with pytest.raises(ValueError, match=r"^optimizer: found a fused AdamW of parameters .* expected fused=False"):
        fit(pair, optimizer=functools.partial(torch.optim.AdamW, fused=True))
    fit(pair, optimizer=torch.optim.AdamW, num_epochs=1)


def test_a_saved_program(tmp_path):
    vae = column_major(pyro_vae.VAE(data_shape=(16,), latent_dim=2, hidden_dims=(6,)))
    pyro_vae.save(vae, tmp_path)
    loaded = pyro_vae.load(tmp_path)
    for name, value in weights(vae).items():
        assert torch.equal(weights(loaded)[name], value)


class TestSVI:
    """In the caller's parameter store."""

    def run(self, pair, objective, num_steps=3):
        svi = pyro.infer.SVI(*pair, pyro.optim.Adam({"lr": 0.02}), loss=objective)
        for seed in range(num_steps):
            torch.manual_seed(seed)
            svi.step(X.double())

    @pytest.mark.parametrize("evaluated", [False, True])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_packages_objectives_train_them(self, layout, evaluated):
        expected, pair = twins(layout)
        self.run(expected, ELBO())
        pyro.clear_param_store()
        before = {name: p.detach().clone() for name, p in strided(pair).items()}
        if evaluated:  # which is the first to meet the parameters
            pyro.infer.SVI(*pair, pyro.optim.Adam({}), loss=ELBO()).evaluate_loss(X.double())
        self.run(pair, ELBO())
        check_same(pair, expected)
        assert all((p - before[name]).abs().max() > 0.01 for name, p in strided(pair).items())
        stored = list(dict(pyro.get_param_store().named_parameters()).values())
        assert all(any(p is each for each in stored) for p in strided(pair).values())

    def test_pyros_objectives_do_not(self):
        """Pyro steps its copy, which has no gradient; when it is gone the package's objectives train the parameter."""
        _, pair = twins("column-major")
        before = {name: p.detach().clone() for name, p in strided(pair).items()}
        self.run(pair, pyro.infer.Trace_ELBO())
        assert all(torch.equal(p, before[name]) for name, p in strided(pair).items())
        with pytest.warns(
            UserWarning, match="^parameter '.*weight': found a contiguous copy in Pyro's parameter store"
        ):
            self.run(pair, ELBO(), num_steps=1)
        assert all(torch.equal(p, before[name]) for name, p in strided(pair).items())
        message = re.escape("found another value in Pyro's parameter store than in the program")
        with pytest.raises(ProgramError, match=f"^parameter '.*weight': {message}, expected pyro.clear_param_store"):
            fit(pair)
        pyro.clear_param_store()
        self.run(pair, ELBO())
        assert not any(torch.equal(p, before[name]) for name, p in strided(pair).items())

    def test_a_parameter_with_a_constraint_is_a_value_to_be_stored(self):
        """pyro.param with a constraint is given the constrained value, and stores another."""
        value = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).T)

        def program(x):
            return pyro.param("scale", value, constraint=pyro.distributions.constraints.positive)

        torch.testing.assert_close(pyro_vae.inference.isolation.isolated(program)(X), value)
