"""The precision of float32 products: what each name does, that it ends with its block, and what stays in float32."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import nn
from torch.nn import functional

import pyro_vae
from pyro_vae import ELBO
from pyro_vae.inference.sites import random_sites
from pyro_vae.runtime import precision
from pyro_vae.runtime.precision import medium_is_exact, precise
from tests.support.programs import PAIRS, bits, fit, vae

X = bits(6)


class TestTheSetting:
    @pytest.mark.parametrize(("name", "exact", "setting"), [
        ("highest", True, "medium"), ("highest", False, "highest"), ("high", True, "high"), ("medium", True, "medium"),
        ("bf16", True, "highest"),
    ])  # fmt: skip
    def test_it_holds_for_the_block(self, name, exact, setting, monkeypatch):
        monkeypatch.setattr(precision, "medium_is_exact", lambda: exact)
        with precise(name):
            assert torch.get_float32_matmul_precision() == setting
        assert torch.get_float32_matmul_precision() == "highest"
        with precise(name, "cuda"):  # a setting alone: nothing runs there
            assert torch.get_float32_matmul_precision() == ("highest" if name == "bf16" else name)

    def test_it_is_given_back_after_an_exception(self):
        with pytest.raises(KeyError), precise("high"):
            raise KeyError
        assert torch.get_float32_matmul_precision() == "highest"

    def test_an_unknown_name(self):
        message = "^precision: found 'fp16', expected one of 'highest', 'high', 'medium', 'bf16'$"
        with pytest.raises(ValueError, match=message), precise("fp16"):
            raise AssertionError("never run")
        for call in (
            lambda: fit(vae(), precision="fp16"),
            lambda: pyro_vae.log_likelihood(vae().model, vae().guide, X, 10, precision="fp16"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


def test_highest_is_float32_on_this_machine():
    a, b = torch.randn(300, 700), torch.randn(700, 200)
    exact = a.double() @ b.double()
    with precise("highest"):
        error = ((a @ b).double() - exact).norm() / exact.norm()
    assert error < 2e-6


def test_the_probe_sees_a_product_that_is_rounded(monkeypatch):
    """Where ``"medium"`` rounds to bfloat16, as on a CPU with units for it, the probe says so."""
    matmul = torch.Tensor.__matmul__

    def rounded(a, b):
        if torch.get_float32_matmul_precision() == "medium":
            return matmul(a.bfloat16().float(), b.bfloat16().float())
        return matmul(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not medium_is_exact.__wrapped__()


class TestBfloat16:
    def test_factors_are_rounded_and_results_are_float32(self):
        layer, convolution = nn.Linear(5, 3), nn.Conv2d(1, 2, 3)
        a, image = torch.randn(4, 5), torch.randn(2, 1, 6, 6)
        for function in (
            lambda: layer(a), lambda: a @ a.T, lambda: torch.matmul(a, a.T), lambda: convolution(image),
            lambda: functional.linear(a, layer.weight),
        ):  # fmt: skip
            exact = function()
            with precise("bf16"):
                rounded = function()
            assert rounded.dtype == torch.float32
            assert 1e-4 < (rounded - exact).norm() / exact.norm() < 2e-2

    def test_float64_stays(self):
        a = torch.randn(4, 4, dtype=torch.float64)
        with precise("bf16"):
            assert torch.equal(a @ a, torch.matmul(a, a)) and (a @ a).dtype == torch.float64
            inside = a @ a
        assert torch.equal(inside, a @ a)

    @pytest.mark.parametrize("name", ["bernoulli-mlp", "hvae", "conv-ladder"])
    def test_draws_and_densities_are_float32(self, name):
        model, guide = PAIRS[name]()
        with precise("bf16"):
            trace = pyro.poutine.trace(guide).get_trace(X)
            replayed = pyro.poutine.trace(pyro.poutine.replay(model, trace=trace)).get_trace(X)
        for each in (trace, replayed):
            each.compute_log_prob()
            for site in random_sites(each).values():
                assert site["value"].dtype == site["log_prob"].dtype == torch.float32

    @pytest.mark.parametrize("compile", [False, True])
    def test_training_and_scoring(self, compile, monkeypatch):
        monkeypatch.setattr("pyro_vae.compilation.compiled.inductor", lambda graph, inputs: graph)
        ends = []
        for name in ("highest", "bf16"):
            torch.manual_seed(7)
            program = vae()
            records = fit(program, precision=name, compile=compile).records
            found = pyro_vae.log_likelihood(
                program.model, program.guide, X, 50, chunk_size=10, precision=name, compile=compile, seed=0
            )
            ends.append((records[-1]["train_bound"], found.mean()))
        (bound, likelihood), (rounded_bound, rounded_likelihood) = ends
        assert bound != rounded_bound and abs(bound - rounded_bound) < 0.05
        assert likelihood != rounded_likelihood and abs(likelihood - rounded_likelihood) < 0.05

    def test_gradients_are_float32(self):
        program = vae()
        with precise("bf16"):
            ELBO()(program.model, program.guide)(X).backward()
        assert all(parameter.grad.dtype == torch.float32 for parameter in program.parameters())
