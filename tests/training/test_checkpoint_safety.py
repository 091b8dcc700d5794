"""Checkpoints that are damaged or malicious: nothing in a folder is ever run, and what is wrong is named."""

from __future__ import annotations

import builtins
import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

import pyro_vae
from pyro_vae.runtime import tensor_files
from pyro_vae.training import checkpoint
from pyro_vae.training import fitting as training
from tests.support.programs import bits, perturbed, same, vae, weights

X = bits(6)
WEIGHTS = "checkpoint.safetensors"


class TestDamage:
    def test_a_missing_folder_or_file(self, tmp_path):
        for folder in (tmp_path, tmp_path / "none"):
            with pytest.raises(
                FileNotFoundError, match=f"found no {WEIGHTS} in {folder}, expected a folder that save or fit"
            ):
                pyro_vae.load(folder)
        pyro_vae.save(vae(), tmp_path)
        (tmp_path / "program.json").unlink()
        with pytest.raises(FileNotFoundError, match=f"found no program.json in {tmp_path}, expected one beside"):
            pyro_vae.load(tmp_path)
        pyro_vae.load(tmp_path, vae())  # the weights alone do where the program is given

    @pytest.mark.parametrize("damage", ["empty", "half", "header", "garbage", "a pickle"])
    def test_a_damaged_weight_file(self, damage, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        whole = (tmp_path / WEIGHTS).read_bytes()
        pieces = {"empty": b"", "half": whole[: len(whole) // 2], "header": whole[:5], "garbage": b"\xff" * 1000}
        (tmp_path / WEIGHTS).write_bytes(pieces.get(damage) or (b"" if damage == "empty" else pickle.dumps({"a": 1})))
        program = vae()
        before = weights(program)
        with pytest.raises(ValueError, match=f"{tmp_path / WEIGHTS}: found .*, expected a whole safetensors file"):
            pyro_vae.load(tmp_path, program)
        assert same(weights(program), before)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", '{"format": 1}', "\ufeff{}", "[" * 10**5, '{"format": ' + "[" * 10**5]
    )
    def test_a_damaged_description(self, text, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        (tmp_path / "program.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="program.json: not a program description: "):
            pyro_vae.load(tmp_path)

    @pytest.mark.parametrize("form", [999, 0, True, "1", None, 1.0])
    def test_an_unknown_format_is_refused_by_its_name(self, form, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        description = json.loads((tmp_path / "program.json").read_text())
        (tmp_path / "program.json").write_text(json.dumps(description | {"format": form}))
        with pytest.raises(ValueError, match=f"program.json: found a description in format {form!r}, expected 1"):
            pyro_vae.load(tmp_path)

    @pytest.mark.parametrize("depth", [400, 900, 10**4])
    def test_parts_in_parts_without_end(self, depth, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        part = '{"class": "DiagonalNormal", "arguments": {"network": '
        text = '{"format": 1, "recipe": ' + depth * part + "1" + depth * "}}" + "}"
        (tmp_path / "program.json").write_text(text)
        with pytest.raises(ValueError, match=f"^{tmp_path}/"):
            pyro_vae.load(tmp_path, verify=False)

    @pytest.mark.parametrize(
        ("dtype", "refused"),
        [(torch.int64, True), (torch.bool, True), (torch.complex64, True), (torch.float64, False), (torch.half, False)],
    )
    def test_an_integer_is_no_weight_and_another_float_is(self, dtype, refused, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        tensors, _ = tensor_files.read_tensors(tmp_path / WEIGHTS)
        name = "model.likelihood.network.output.bias"
        if dtype not in safetensors.torch._SIZE:
            pytest.skip(f"safetensors {safetensors.__version__} does not write {dtype}; 0.7 does")
        tensor_files.write_tensors(tmp_path / WEIGHTS, tensors | {name: torch.ones(16, dtype=dtype)})
        if refused:
            with pytest.raises(ValueError, match=f"leaf '{name}': found {dtype}, expected torch.float32"):
                pyro_vae.load(tmp_path)
        else:
            assert pyro_vae.load(tmp_path).model.likelihood.network.output.bias.eq(1).all()


class TestChecksums:
    def test_a_flipped_bit_is_seen_in_every_tensor_and_can_be_known_of(self, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        whole = (tmp_path / WEIGHTS).read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        for where in range(start, len(whole), 37):
            content = bytearray(whole)
            content[where] ^= 1
            (tmp_path / WEIGHTS).write_bytes(content)
            with pytest.raises(ValueError, match=f"{tmp_path / WEIGHTS}: found another content than was written"):
                pyro_vae.load(tmp_path)
            pyro_vae.load(tmp_path, verify=False)

    def test_a_recipe_that_was_edited_is_seen_and_can_be_known_of(self, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        description = json.loads((tmp_path / "program.json").read_text())
        description["recipe"]["arguments"]["activation"] = "relu"
        (tmp_path / "program.json").write_text(json.dumps(description))
        with pytest.raises(ValueError, match="program.json: found another content than was written"):
            pyro_vae.load(tmp_path)
        assert "ReLU" in str(pyro_vae.load(tmp_path, verify=False))

    def test_files_of_before_load(self, tmp_path):
        program = perturbed(vae())
        (tmp_path / "program.json").write_text(json.dumps({"format": 1, "recipe": program.recipe}))
        save_file(program.state_dict(), tmp_path / WEIGHTS)
        assert same(weights(pyro_vae.load(tmp_path)), weights(program))

    def test_a_process_that_dies_between_the_two_files_leaves_what_was_there(self, tmp_path, monkeypatch):
        old = perturbed(vae())
        pyro_vae.save(old, tmp_path)
        monkeypatch.setattr(checkpoint, "write_tensors", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pyro_vae.save(pyro_vae.VAE((4, 4), 3, (7,), "gaussian"), tmp_path)
        assert "gaussian" in (tmp_path / "program.json").read_text()
        assert same(weights(pyro_vae.load(tmp_path)), weights(old))

    def test_equal_programs_give_equal_files(self, tmp_path):
        program = vae()
        for name in ("a", "b"):
            pyro_vae.save(program, tmp_path / name)
        for file in (WEIGHTS, "program.json"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class TestMalice:
    @pytest.mark.parametrize(
        "recipe",
        [
            {"class": "os.system", "arguments": {"command": "touch pwned"}},
            {"class": "system", "arguments": {}},
            {"class": "Linear", "arguments": {"in_features": 1, "out_features": 1}},
            {"class": "Rebuildable", "arguments": {}},
            {"class": "UsersVAE", "arguments": {"data_shape": [4], "latent_dim": 2}},
            {"class": ["VAE"], "arguments": {}},
            {"class": None, "arguments": {}},
            {"class": "VAE", "arguments": {"__class__": "os.system"}},
            {"class": "VAE", "arguments": {"self": 1}},
            {"class": "VAE", "arguments": []},
            {"class": "VAE", "arguments": {}, "__reduce__": ["os.system", "touch pwned"]},
            {"class": "VAE", "arguments": {"data_shape": "os.system", "latent_dim": 2}},
            {"class": "VAE", "arguments": {"prior": 1, "likelihood": 2, "posterior": 3}},
            {
                "class": "VAE",
                "arguments": {"data_shape": [4], "latent_dim": {"class": "eval", "arguments": {"x": "1"}}},
            },
            {"class": "MLP", "arguments": {"in_shape": 2, "out_shape": 2, "hidden_dims": None}},
            {"class": "MLP", "arguments": {"in_shape": 2, "out_shape": 2, "activation": "__import__"}},
        ],
    )
    def test_a_strangers_recipe_is_data(self, recipe, tmp_path, monkeypatch):
        pyro_vae.save(vae(), tmp_path)
        pyro_vae.load(tmp_path)  # at the first call of each, Python evaluates the annotations of its arguments
        ran = []
        for module, name in ((os, "system"), (builtins, "eval"), (builtins, "exec")):
            monkeypatch.setattr(module, name, lambda *args, **kwargs: ran.append(args))
        pyro_vae.save(vae(), tmp_path)
        (tmp_path / "program.json").write_text(json.dumps({"format": 1, "recipe": recipe}))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="program.json: found another content than was written"):
            pyro_vae.load(tmp_path)
        with pytest.raises(ValueError, match="program.json: "):
            pyro_vae.load(tmp_path, verify=False)
        assert ran == [] and not (tmp_path / "pwned").exists()

    def test_nothing_is_pickled(self, tmp_path, monkeypatch):
        program = vae()
        options = {"batch_size": 3, "progress": False, "seed": 0}
        training.fit(program.model, program.guide, X, num_epochs=1, **options)  # torch imports parts of itself late

        def refuse(*args, **kwargs):
            raise AssertionError("pickle was used")

        for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
            monkeypatch.setattr(pickle, name, refuse)
        monkeypatch.setattr(torch, "load", refuse)
        monkeypatch.setattr(torch, "save", refuse)
        options |= {"checkpoint": tmp_path}
        training.fit(program.model, program.guide, X, num_epochs=1, **options)
        training.fit(program.model, program.guide, X, num_epochs=2, **options, resume=True)
        pyro_vae.load(tmp_path)
        pyro_vae.save(program, tmp_path / "copy")
