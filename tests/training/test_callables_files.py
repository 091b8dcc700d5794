"""Files of programs that are no modules: names, what is restored, what is refused, and runs that go on."""

from __future__ import annotations

import json

import pyro
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae.runtime.tensor_files import read_tensors, write_tensors
from tests.support.writings import WRITINGS, Pair, as_bare, as_functions, as_methods, as_mix, as_modules, guide_of
from tests.training.test_callables import X, equal, fit
from tests.training.test_resume import interrupt

NAMES = {
    "as_modules": {f"model.{n}" for n in ("w", "b", "s_unconstrained")}
    | {f"guide.{n}" for n in ("a", "c", "t_unconstrained")},
    "as_methods": {f"{half}.{n}" for half in ("decoder", "encoder") for n in ("weight", "bias", "log_scale")},
    "as_functions": {f"model.decoder.{n}" for n in ("weight", "bias", "log_scale")}
    | {f"guide.networks[encoder][0].{n}" for n in ("weight", "bias", "log_scale")},
    "as_bare": {f"params.{n}" for n in ("w", "decoder.b", "s", "a", "c", "t")},
    "as_mix": {f"model.{half}.{n}" for half in ("decoder", "encoder") for n in ("weight", "bias", "log_scale")}
    | {f"params.{n}" for n in "act"},
}


def trained(write, **options):
    pyro.clear_param_store()
    model, guide, values = write()
    history = fit(model, guide, **options)
    return model, guide, values, history


class TestSave:
    @pytest.mark.parametrize("write", WRITINGS, ids=lambda write: write.__name__)
    def test_what_is_saved_is_restored_in_another_process(self, write, tmp_path):
        model, guide, values, _ = trained(write, checkpoint=tmp_path / "run")
        expected = values()
        pyro_vae.save((model, guide), tmp_path / "saved")
        files = [read_tensors(tmp_path / folder / "checkpoint.safetensors")[0] for folder in ("run", "saved")]
        assert equal(*files)
        if write.__name__ in NAMES:
            assert files[0].keys() == NAMES[write.__name__]
        for folder in ("run", "saved"):
            pyro.clear_param_store()
            model, guide, values = write()
            pair = pyro_vae.load(tmp_path / folder, (model, guide))
            assert pair == (model, guide)
            assert equal(values(), expected)

    def test_methods_of_one_module_are_saved_as_the_module_is(self, tmp_path):
        model, guide, values, _ = trained(as_methods, checkpoint=tmp_path)
        pair = pyro_vae.load(tmp_path, Pair())
        assert torch.equal(pair.encoder.weight, values()["a"]) and torch.equal(pair.decoder.weight, values()["w"])
        pyro_vae.save(pair, tmp_path / "module")
        model, guide, loaded = as_methods()
        pyro_vae.load(tmp_path / "module", (model, guide))
        assert equal(loaded(), values())

    def test_a_value_that_is_in_the_store_is_overwritten_in_place(self, tmp_path):
        model, guide, values, _ = trained(as_bare)
        expected = values()
        pyro_vae.save((model, guide), tmp_path)
        leaf = dict(pyro.get_param_store().named_parameters())["t"]
        with torch.no_grad():
            leaf.zero_()
        pyro_vae.load(tmp_path, (model, guide))
        assert equal(values(), expected) and pyro.param("t").unconstrained() is leaf

    def test_programs_run_on_what_was_loaded(self, tmp_path):
        model, guide, _, _ = trained(as_bare, checkpoint=tmp_path)
        torch.manual_seed(0)
        expected = pyro_vae.log_weights(model, guide, X)
        pyro.clear_param_store()
        pyro_vae.load(tmp_path, (model, guide))
        torch.manual_seed(0)
        assert torch.equal(pyro_vae.log_weights(model, guide, X), expected)

    def test_a_pair_of_modules_has_no_parameters_of_the_store_that_are_none(self, tmp_path):
        model, guide, _ = as_modules()
        pyro_vae.save((model, guide), tmp_path)
        tensors, metadata = read_tensors(tmp_path / "checkpoint.safetensors")
        assert tensors.keys() == NAMES["as_modules"] and metadata.keys() == {"recipe"}


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "init", "constraint", "message"),
        [
            ("a", torch.zeros(2), constraints.real, r"leaf 'params.a': found \(1, 3\), expected \(2,\)$"),
            (
                "t",
                torch.ones(1),
                constraints.real,
                r"leaf 'params.t': found the constraint positive, expected real as in",
            ),
        ],
    )
    def test_another_parameter_in_the_store(self, name, init, constraint, message, tmp_path):
        model, guide, _, _ = trained(as_bare, checkpoint=tmp_path)
        pyro.clear_param_store()
        pyro.param(name, init.clone(), constraint=constraint)
        with pytest.raises(ValueError, match=message):
            pyro_vae.load(tmp_path, (model, guide))
        assert list(pyro.get_param_store()) == [name] and torch.equal(pyro.param(name), init)

    def test_a_constraint_that_is_not_known(self, tmp_path):
        each = constraints.interval(torch.zeros(3), torch.ones(3))  # bounds of each entry

        def guide(x):
            guide_of(x, pyro.param("a", torch.full((1, 3), 0.5), constraint=each), torch.zeros(1), torch.ones(1))

        model = as_methods()[0]
        fit(model, guide, checkpoint=tmp_path)
        pyro_vae.load(tmp_path, (model, guide))  # the store has it
        pyro.clear_param_store()
        with pytest.raises(ValueError, match=r"leaf 'params.a': found the constraint Interval.*, which is not known"):
            pyro_vae.load(tmp_path, (model, guide))

    @pytest.mark.parametrize("text", ["[]", '{"a": "real", "unknown": "real"}', '{"a": [["independent"]]}', '{"a": 3}'])
    def test_descriptions_that_are_none(self, text, tmp_path):
        model, guide, _, _ = trained(as_bare, checkpoint=tmp_path)
        tensors, metadata = read_tensors(tmp_path / "checkpoint.safetensors")
        write_tensors(tmp_path / "checkpoint.safetensors", tensors, metadata | {"params": text})
        pyro.clear_param_store()
        with pytest.raises(ValueError, match=r"checkpoint.safetensors: (found|leaf 'params)"):
            pyro_vae.load(tmp_path, (model, guide))
        assert len(pyro.get_param_store()) == 0

    def test_a_pair_without_them(self, tmp_path):
        trained(as_bare, checkpoint=tmp_path)
        pyro.clear_param_store()
        model, guide, _ = as_functions()
        with pytest.raises(
            ValueError, match=r"leaf 'guide.networks\[encoder\]\[0\].bias': found nothing, expected \(1,\)$"
        ):
            pyro_vae.load(tmp_path, (model, guide))
        with pytest.raises(TypeError, match=r"^program: found \(function\), expected a module or a pair"):
            pyro_vae.save(model, tmp_path / "half")

    def test_an_autoguide_that_was_never_run(self, tmp_path):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

        guide = AutoNormal(model)
        guide(X[:, 0])
        pyro_vae.save((model, guide), tmp_path)
        with pytest.raises(ValueError, match=r"AutoNormal has no parameters before it was called once with data"):
            pyro_vae.load(tmp_path, (model, AutoNormal(model)))


class TestResume:
    @pytest.mark.parametrize("kind", ["tensor", "loader"])
    @pytest.mark.parametrize("write", [as_methods, as_functions, as_bare, as_mix], ids=lambda write: write.__name__)
    def test_it_ends_with_the_bits_of_a_run_that_was_not_interrupted(self, write, kind, tmp_path):
        def data():
            return X if kind == "tensor" else DataLoader(X, batch_size=4, shuffle=True)

        _, _, values, whole = trained(write, data=data(), num_epochs=5)
        expected = values()
        stop = lambda record: interrupt() if record["epoch"] == 2 else None  # noqa: E731
        *_, history = trained(write, data=data(), num_epochs=5, checkpoint=tmp_path, callbacks=[stop])
        assert history.interrupted
        _, _, values, history = trained(write, data=data(), num_epochs=5, checkpoint=tmp_path, resume=True)
        assert equal(values(), expected)
        assert [r["train_bound"] for r in history.records] == [r["train_bound"] for r in whole.records]

    def test_another_pair_is_refused(self, tmp_path):
        trained(as_bare, checkpoint=tmp_path)
        with pytest.raises(ValueError, match=r"^params: found None, expected {'a': 'real', .* as in the run in"):
            trained(as_methods, checkpoint=tmp_path, resume=True)
        pyro.clear_param_store()
        pyro.param("c", torch.zeros(4))
        model, guide, _ = as_bare()
        with pytest.raises(ValueError, match=r"leaf 'params.c': found \(1,\), expected \(4,\)|programs fail"):
            fit(model, guide, checkpoint=tmp_path, resume=True)

    def test_a_run_of_modules_is_written_as_before(self, tmp_path):
        trained(as_modules, checkpoint=tmp_path)
        tensors, metadata = read_tensors(tmp_path / "last.safetensors")
        names = {name for name in tensors if name.startswith("program.")}
        assert names == {f"program.{name}" for name in NAMES["as_modules"]}
        assert json.loads(metadata["run"])["facts"]["params"] is None
