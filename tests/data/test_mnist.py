"""MNIST and Fashion-MNIST: their splits, and what happens when a file is missing, damaged or half downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pyro_vae.data.loading import load
from tests.support.downloads import mnist_files, needs_fork, needs_torchvision, real, status_of, torchvision_mnist


@needs_torchvision
class TestMNIST:
    def check(self, splits):
        assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [50_000, 10_000, 10_000]
        for part, first, last in ((splits.train, 1, 2), (splits.valid, 3, 4), (splits.test, 5, 6)):
            assert part.values[[0, -1], 0, 0].tolist() == [10 * first, 10 * last]
            assert part.labels[[0, -1]].tolist() == [first, last]
            assert part[0][0, 0] == torch.tensor(10 * first / 255)

    @pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
    def test_files_already_there_are_read_and_not_downloaded(self, name, folder, tmp_path):
        mnist_files(tmp_path / folder / "raw")
        self.check(load(name, tmp_path, None))

    @pytest.mark.parametrize("damage", ["truncated", "longer", "another file"])
    @pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
    def test_a_corrupt_file_is_named(self, file, damage, tmp_path):
        raw = tmp_path / "MNIST" / "raw"
        mnist_files(raw)
        size = (raw / file).stat().st_size
        if damage == "another file":
            with (raw / file).open("r+b") as written:
                written.write(b"\x1f\x8b")
        else:
            os.truncate(raw / file, size - 1 if damage == "truncated" else size + 1)
        with pytest.raises(
            ValueError,
            match=rf"{raw / file}: found a truncated or corrupt file \(.*\), expected .*: delete it and load again",
        ):
            load("mnist", tmp_path)

    def test_without_a_network_it_says_what_to_put_where(self, tmp_path):
        raw = tmp_path / "MNIST" / "raw"
        mnist_files(raw)
        (raw / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(FileNotFoundError) as caught:
            load("mnist", tmp_path)
        assert f"expected t10k-labels-idx1-ubyte in {raw}: put them there, or" in str(caught.value)
        assert "no network in tests" in str(caught.value.__cause__)
        assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]  # nothing temporary is left

    @needs_fork
    def test_a_download_that_was_killed_starts_again(self, tmp_path, monkeypatch):
        root = tmp_path / "root"

        def dying(url, download_root, filename, md5):
            path = Path(download_root, filename.removesuffix(".gz"))
            path.write_bytes(bytes(100))
            if filename.startswith("t10k-labels"):
                os._exit(9)

        monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", dying)
        assert status_of(lambda: load("mnist", root), tmp_path / "log") == 9
        assert [path.name[:7] for path in root.iterdir()] == [".MNIST."]  # it did die half way

        def download(url, download_root, filename, md5):
            mnist_files(Path(download_root))

        monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", download)
        self.check(load("mnist", root, None))
        assert len(list((root / "MNIST" / "raw").iterdir())) == 4
        assert len(list(root.iterdir())) == 2  # the second attempt left nothing temporary of its own

    def test_the_real_digits(self, data_root):
        splits = load("mnist", real(data_root, "MNIST", "raw", "train-images-idx3-ubyte"))
        assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [50_000, 10_000, 10_000]
        assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert splits.valid.labels[:5].tolist() == [3, 8, 6, 9, 6]
        assert splits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
        assert int(splits.valid.values.sum()) == 1_012_713  # these bits for ever, too
        assert int(splits.test.values.sum()) == 1_039_159

    def test_no_model_can_beat_the_pixel_entropy_of_the_real_digits(self, data_root):
        root = real(data_root, "MNIST", "raw", "train-images-idx3-ubyte")
        assert load("mnist", root, None).test.pixel_entropy() == pytest.approx(45.53, abs=0.005)
