"""Frey Face: its splits, and what happens when its file is missing, damaged or half downloaded."""

from __future__ import annotations

import os
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pyro_vae.data.loading import load
from tests.support.downloads import Response, frey_file, needs_fork, real, status_of


class TestFreyFaces:
    def test_split_as_documented(self, tmp_path, monkeypatch):
        frey_file(tmp_path / "FreyFace" / "frey_rawface.mat", monkeypatch)
        splits = load("frey_faces", tmp_path)
        parts = (splits.train, splits.valid, splits.test)
        assert [len(part) for part in parts] == [1_500, 100, 365]
        assert splits.data_shape == (28, 20)
        assert all(part.labels is None and part.binarize is None and part.levels == 255 for part in parts)
        values = torch.cat([part.values for part in parts]).long()
        identity = 256 * values[:, 0, 0] + values[:, 1, 1]
        assert identity.tolist() == np.random.RandomState(0).permutation(1_965).tolist()
        other = load("frey_faces", tmp_path, seed=5)
        assert torch.equal(other.test.values, splits.test.values)
        assert load("frey_faces", tmp_path, "dynamic").train.binarize == "dynamic"

    @needs_fork
    def test_a_download_that_was_killed_starts_again(self, tmp_path, monkeypatch):
        class Dying(Response):
            def get_all(self, header):
                return ["2000"]

            def read(self, size):
                half = super().read(1000)
                if not half:
                    os._exit(9)
                return half

        root = tmp_path / "root"
        monkeypatch.setattr(torch.hub, "urlopen", lambda request: Dying(bytes(1000)))
        assert status_of(lambda: load("frey_faces", root), tmp_path / "log") == 9
        target = root / "FreyFace" / "frey_rawface.mat"
        assert list(target.parent.iterdir())  # it did die half way, and left something
        assert not target.exists()
        content = frey_file(tmp_path / "elsewhere.mat", monkeypatch)
        monkeypatch.setattr(torch.hub, "urlopen", lambda request: Response(content))
        assert len(load("frey_faces", root).test) == 365
        assert target.read_bytes() == content

    def test_a_download_with_a_wrong_checksum_is_not_kept(self, tmp_path, monkeypatch):
        pytest.importorskip("scipy")
        monkeypatch.setattr(torch.hub, "urlopen", lambda request: Response(b"<html>404</html>"))
        with pytest.raises(FileNotFoundError) as caught:
            load("frey_faces", tmp_path)
        assert "invalid hash value" in str(caught.value.__cause__)
        assert list((tmp_path / "FreyFace").iterdir()) == []

    def test_a_corrupt_file_is_named(self, tmp_path, monkeypatch):
        path = tmp_path / "FreyFace" / "frey_rawface.mat"
        content = frey_file(path, monkeypatch)
        path.write_bytes(content[:-100])
        with pytest.raises(
            ValueError,
            match=rf"{path}: found a truncated or corrupt file \(.*\), expected .*: delete it and load again",
        ):
            load("frey_faces", tmp_path)

    def test_without_a_network_it_says_what_to_put_where(self, tmp_path):
        pytest.importorskip("scipy")
        with pytest.raises(FileNotFoundError) as caught:
            load("frey_faces", tmp_path)
        assert str(caught.value) == (
            f"frey_faces: found a download that failed, expected frey_rawface.mat in {tmp_path / 'FreyFace'}: "
            "put them there, or say by root= or the environment variable PYRO_VAE_DATA which folder holds them"
        )
        assert isinstance(caught.value.__cause__, URLError)

    @pytest.mark.parametrize(
        ("variables", "folder"),
        [
            ({"HOME": "home"}, "home/.cache/pyro_vae"),
            ({"HOME": "home", "XDG_CACHE_HOME": "cache"}, "cache/pyro_vae"),
            ({"HOME": "home", "XDG_CACHE_HOME": "cache", "PYRO_VAE_DATA": "mine"}, "mine"),
        ],
    )
    def test_the_folder_without_root(self, variables, folder, tmp_path, monkeypatch):
        pytest.importorskip("scipy")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
        for key, value in variables.items():
            monkeypatch.setenv(key, str(tmp_path / value))
        with pytest.raises(FileNotFoundError) as caught:
            load("frey_faces")
        assert f" in {tmp_path / folder / 'FreyFace'}:" in str(caught.value)

    def test_the_real_faces(self, data_root):
        pytest.importorskip("scipy")
        splits = load("frey_faces", real(data_root, "FreyFace", "frey_rawface.mat"))
        assert splits.test.values[0, 0].tolist() == [
            177, 193, 197, 216, 219, 221, 222, 224, 225, 225, 224, 225, 226, 223, 218, 217, 219, 84, 86, 211
        ]  # fmt: skip
        assert int(splits.test.values.sum()) == 31_537_074
        assert 0 < splits.train[:].min() < splits.train[:].max() < 1
        # Rows of a face resemble the rows above them, and would not if it were cut into rows of another length.
        faces = splits.test[:]
        other = faces.reshape(-1, 20, 28)
        assert 2 * (faces[:, 1:] - faces[:, :-1]).abs().mean() < (other[:, 1:] - other[:, :-1]).abs().mean()
