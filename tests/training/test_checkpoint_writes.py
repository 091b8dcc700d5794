"""Checkpoints that cannot be written whole: nothing old is lost, and nothing half written is read."""

from __future__ import annotations

import errno
import os

import pytest
from safetensors import SafetensorError

import pyro_vae
from pyro_vae.runtime import files, tensor_files
from pyro_vae.training import checkpoint
from pyro_vae.training import fitting as training
from tests.support.programs import bits, perturbed, same, vae, weights

X = bits(6)
WEIGHTS = "checkpoint.safetensors"


class TestFullDisk:
    def test_what_the_library_says_becomes_an_error_with_number_and_path(self, tmp_path, monkeypatch):
        old = perturbed(vae())
        pyro_vae.save(old, tmp_path)

        def full(tensors, path, metadata=None):
            path.write_bytes(b"half of a file")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(tensor_files, "save_file", full)
        with pytest.raises(OSError) as caught:
            pyro_vae.save(perturbed(vae()), tmp_path)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / WEIGHTS))
        assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, "program.json"}
        assert same(weights(pyro_vae.load(tmp_path)), weights(old))

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "run").write_text("here")
        program = vae()
        for write in (
            lambda: pyro_vae.save(program, tmp_path / "run"),
            lambda: training.fit(program.model, program.guide, X, batch_size=3, num_epochs=1, progress=False,
                                 checkpoint=tmp_path / "run"),
        ):  # fmt: skip
            with pytest.raises(NotADirectoryError, match=f"'{tmp_path / 'run'}/"):
                write()


class TestAtomicity:
    @pytest.mark.parametrize("fails", ["weights", "description"])
    def test_a_write_that_fails_midway_leaves_the_old_checkpoint(self, fails, tmp_path, monkeypatch):
        old = perturbed(vae())
        pyro_vae.save(old, tmp_path)

        def half(tensors, path, metadata=None):
            path.write_bytes(b"half of a file")
            raise OSError("no space left on device")

        def half_text(path, text):
            with files.replacing(path) as temporary:
                temporary.write_text(text[: len(text) // 2])
                raise OSError("no space left on device")

        if fails == "weights":
            monkeypatch.setattr(tensor_files, "save_file", half)
        else:
            monkeypatch.setattr(checkpoint, "write_text", half_text)
        with pytest.raises(OSError, match="no space left"):
            pyro_vae.save(perturbed(vae()), tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, "program.json"}
        assert same(weights(pyro_vae.load(tmp_path)), weights(old))

    def test_a_failed_write_in_training_leaves_the_epoch_before(self, tmp_path, monkeypatch):
        program, after = vae(), []
        options = {"batch_size": 3, "num_epochs": 3, "checkpoint": tmp_path, "progress": False}

        def callback(record):
            after.append(weights(program))
            if record["epoch"] == 2:
                monkeypatch.setattr(tensor_files, "save_file", broken)

        def broken(tensors, path, metadata=None):
            path.write_bytes(b"half of a file")
            raise OSError("no space left on device")

        with pytest.raises(OSError, match="no space left"):
            training.fit(program.model, program.guide, X, callbacks=[callback], **options)
        monkeypatch.undo()
        assert same(weights(pyro_vae.load(tmp_path)), after[1])
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        resumed = vae()
        assert len(training.fit(resumed.model, resumed.guide, X, **options, resume=True).records) == 3

    def test_the_files_can_be_read_by_whom_the_umask_lets(self, tmp_path):
        before = os.umask(0o022)
        try:
            pyro_vae.save(vae(), tmp_path)
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
