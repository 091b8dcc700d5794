"""``fit`` and ``log_likelihood`` compiled: the numbers that they give without, for long runs unasked, said once."""

from __future__ import annotations

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae.compilation import compiled as compilation
from pyro_vae.schedules import Linear
from pyro_vae.training import fitting as training
from tests.support.pairwise import in_turn
from tests.support.programs import PAIRS, bits, check_close, fit, same, traced, vae, weights

X = bits(6)


@pytest.fixture
def only_traced(monkeypatch):
    monkeypatch.setattr(compilation, "inductor", traced)


class TestFit:
    @pytest.mark.parametrize(("name", "batch_size"), in_turn(["tutorial", "hvae"], [6, 7]))
    def test_it_trains_as_without(self, name, batch_size, only_traced):
        ends = []
        for compile in (True, False):
            torch.manual_seed(7)
            model, guide = PAIRS[name]()
            if name == "tutorial":  # batch norm follows: the gradient is nothing but rounding
                model.decoder[0].bias.requires_grad_(False)
            pair = pyro_vae.anneal_kl(model, guide, Linear(6))
            history = training.fit(
                *pair, bits(24), valid=bits(14, seed=1), num_epochs=3, batch_size=batch_size, lr=0.01, seed=0,
                clip_norm=5.0, compile=compile, progress=False,
            )  # fmt: skip
            ends.append((weights(model, guide), history.records))
        (found, records), (expected, others) = ends
        check_close(found, expected, rtol=1e-3, atol=1e-4)
        for record, other in zip(records, others, strict=True):
            for key in ("train_bound", "valid_bound", "train_loss", "valid_loss", "kl_weight"):
                assert record[key] == pytest.approx(other[key], rel=1e-4), key

    @pytest.mark.cross
    def test_by_inductor_and_bit_by_bit_after_an_interruption(self, tmp_path, monkeypatch):
        kernels, inductor = {}, compilation.inductor

        def compiled_once(graph, inputs):
            """Compile the graphs of the three runs, which are equal, once."""
            if graph.code not in kernels:
                kernels[graph.code] = inductor(graph, inputs)
            return kernels[graph.code]

        monkeypatch.setattr(compilation, "inductor", compiled_once)
        whole, parts = (PAIRS["tutorial"]() for _ in range(2))
        for mine, others in zip(whole, parts, strict=True):
            others.load_state_dict(mine.state_dict())
        options = {"batch_size": 6, "seed": 0, "compile": True, "progress": False}
        training.fit(*whole, bits(24), num_epochs=2, **options)
        training.fit(*parts, bits(24), num_epochs=1, checkpoint=tmp_path / "run", **options)
        training.fit(*parts, bits(24), num_epochs=2, checkpoint=tmp_path / "run", resume=True, **options)
        assert same(weights(*whole), weights(*parts)) and len(kernels) == 2

    def test_auto_compiles_long_runs_only(self, monkeypatch, only_traced):
        compiled = []
        monkeypatch.setattr(compilation, "inductor", lambda graph, inputs: compiled.append(1) or graph)
        fit(vae())
        assert not compiled
        monkeypatch.setattr(training, "_LONG", 12)
        fit(vae())
        assert compiled == [1, 1]  # the gradients, and the step of the optimiser
        fit(vae(), objective=pyro.infer.Trace_ELBO())  # not one of ours, and nobody asked
        assert compiled == [1, 1]

    def test_auto_compiles_shorter_runs_whose_kernels_are_on_disk(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        compiled = []
        monkeypatch.setattr(compilation, "inductor", lambda graph, inputs: compiled.append(1) or graph)
        monkeypatch.setattr(training, "_LONG_IF_KNOWN", 12)
        fit(vae())
        assert not compiled
        fit(vae(), compile=True)
        fit(vae())
        assert len(compiled) == 4
        fit(vae(), objective=pyro_vae.IWAE(3))  # another program
        fit(vae(), num_epochs=2)
        assert len(compiled) == 4

    def test_an_objective_of_pyro(self):
        with pytest.warns(UserWarning, match=r"^the training step is not compiled: found Trace_ELBO, expected"):
            fit(vae(), objective=pyro.infer.Trace_ELBO(), compile=True)

    def test_it_is_said_once(self, only_traced, capsys):
        fit(vae(), compile=True, progress=True)
        assert capsys.readouterr().err.count("compiled the training step in ") == 1

    def test_a_choice_that_there_is_not(self):
        for compile in ("always", 1, None):
            with pytest.raises(ValueError, match="^compile: found .*, expected 'auto', True or False$"):
                fit(vae(), compile=compile)
            with pytest.raises(ValueError, match="^compile: found .*, expected 'auto', True or False$"):
                pyro_vae.log_likelihood(vae().model, vae().guide, X, 10, compile=compile)


class TestLogLikelihood:
    @pytest.mark.parametrize("name", ["tutorial", "hvae"])
    def test_it_is_the_same(self, name, only_traced):
        model, guide = PAIRS[name]()
        options = {"num_particles": 25, "batch_size": 4, "chunk_size": 10, "seed": 0}
        found = pyro_vae.log_likelihood(model, guide, bits(10), compile=True, **options)
        expected = pyro_vae.log_likelihood(model, guide, bits(10), compile=False, **options)
        for value, other in zip(found, expected, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4, equal_nan=True)

    def test_by_inductor(self):
        model, guide = PAIRS["hvae"]()
        options = {"num_particles": 20, "batch_size": 5, "chunk_size": 10, "seed": 0}
        found = pyro_vae.log_likelihood(model, guide, bits(10), compile=True, **options)
        expected = pyro_vae.log_likelihood(model, guide, bits(10), compile=False, **options)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-5)

    def test_functions_are_compiled_too(self, only_traced):
        program = vae()
        found = pyro_vae.log_likelihood(
            lambda x: program.model(x), lambda x: program.guide(x), X, 20, compile=True, seed=0
        )
        expected = pyro_vae.log_likelihood(program.model, program.guide, X, 20, compile=False, seed=0)
        torch.testing.assert_close(found.values, expected.values)
