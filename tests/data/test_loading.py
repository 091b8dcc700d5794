"""Loading: which data are in which split, which bits they become, and what happens when a file is not there."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pyro_vae.data import sources
from pyro_vae.data.loading import load

torchvision_error = ""
try:
    import torchvision.datasets.mnist as torchvision_mnist
except (ImportError, RuntimeError) as error:
    torchvision_error = f"torchvision cannot be imported: {error}"
needs_torchvision = pytest.mark.skipif(bool(torchvision_error), reason=torchvision_error)

REPOSITORY = Path(__file__).resolve().parents[2]


def real(root: Path, *parts: str) -> Path:
    """Give ``root`` back if the file is in it, and skip the test if not."""
    if not root.joinpath(*parts).is_file():
        pytest.skip(f"no {root.joinpath(*parts)}; PYRO_VAE_DATA can name the folder")
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let every download fail as it does without a network."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    if not torchvision_error:
        monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", refuse)


class TestSplits:
    def test_digits_are_split_as_documented(self):
        sklearn_datasets = pytest.importorskip("sklearn.datasets")
        images, labels = sklearn_datasets.load_digits(return_X_y=True)
        splits = load("digits", binarize=None)
        parts = (splits.train, splits.valid, splits.test)
        assert [len(part) for part in parts] == [1_297, 250, 250]
        assert (splits.name, splits.data_shape) == ("digits", (8, 8))
        order = np.random.RandomState(0).permutation(1_797)
        stored = torch.cat([part.values for part in parts]).reshape(-1, 64)
        np.testing.assert_array_equal(stored, images[order])
        np.testing.assert_array_equal(torch.cat([part.labels for part in parts]), labels[order])
        assert all(part.labels.dtype == torch.int64 and part.values.dtype == torch.uint8 for part in parts)
        assert torch.equal(splits.test[0], splits.test.values[0] / 16)

    def test_the_held_out_digits_are_these_for_ever(self):
        # Published numbers depend on these bits: whatever changes them changes the data set.
        pytest.importorskip("sklearn")
        splits = load("digits")
        assert splits.test.labels[:12].tolist() == [1, 0, 5, 6, 6, 8, 0, 7, 0, 4, 2, 6]
        assert int(splits.valid.values.sum()) == 4_877
        assert int(splits.test.values.sum()) == 4_906
        assert int(load("digits", binarize="static").train.values.sum()) == 25_290

    @pytest.mark.parametrize("n", [10, 57])
    def test_an_array_is_split_80_10_10_by_seed(self, n):
        x = np.arange(2 * n, dtype=np.float64).reshape(n, 2)
        labels = np.arange(n, dtype=np.int32)
        splits = load(x, labels=labels, seed=3)
        parts = (splits.train, splits.valid, splits.test)
        assert [len(part) for part in parts] == [n - 2 * (n // 10), n // 10, n // 10]
        assert (splits.name, splits.data_shape, splits.train.binarize) == ("array", (2,), None)
        together = torch.cat([part[:] for part in parts])
        assert torch.equal(together.sort(0).values, torch.from_numpy(x).float())
        assert not torch.equal(together, torch.from_numpy(x).float())
        for part in parts:
            assert torch.equal(part[:][:, 0], 2.0 * part.labels)
        again, other = load(x, seed=3), load(x, seed=4)
        assert torch.equal(again.train.values, splits.train.values)
        assert not torch.equal(other.train.values, splits.train.values)

    def test_the_splits_share_no_memory_with_the_array_or_each_other(self):
        x = torch.rand(20, 2)
        kept = x.clone()
        splits = load(x)
        for part in (splits.train, splits.valid, splits.test):
            part.values.zero_()
        assert torch.equal(x, kept)

    def test_bytes_are_grey_levels_and_bits_are_bits(self):
        grey = torch.arange(40, dtype=torch.uint8).reshape(20, 2)
        assert load(grey).train.levels == 255
        assert torch.cat([load(grey).train[:], load(grey).valid[:], load(grey).test[:]]).max() == torch.tensor(39 / 255)
        for bits in (grey % 2, (grey % 2).bool(), (grey % 2).numpy(), (grey % 2).numpy().astype(bool)):
            splits = load(bits)
            assert splits.train.values.dtype == torch.uint8
            assert set(splits.train[:].unique().tolist()) == {0.0, 1.0}

    def test_other_numbers_are_taken_as_they_are(self):
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
        train = load(x).train
        assert train.values.dtype == torch.float64
        assert torch.equal(train[:], train.values.float())


class TestBinarisation:
    def grey(self, n=3_000):
        return torch.linspace(0, 1, 9).repeat(n, 1)

    def test_dynamic_draws_training_data_anew_and_the_others_once(self):
        pytest.importorskip("sklearn")
        splits = load("digits")
        assert splits.train.binarize == "dynamic"
        assert not torch.equal(splits.train[:], splits.train[:])
        for part in (splits.valid, splits.test):
            assert part.binarize == "static"
            assert torch.equal(part[:], part[:])
            assert set(part[:].unique().tolist()) == {0.0, 1.0}
            assert part.values.dtype == torch.uint8
        assert not torch.equal(splits.valid.values, splits.test.values)

    def test_auto_is_dynamic_for_digits_and_none_for_arrays(self):
        pytest.importorskip("sklearn")
        assert load("digits").train.binarize == "dynamic"
        assert load(self.grey(20)).train.binarize is None

    def test_bits_drawn_once_have_the_grey_levels_for_means(self):
        # 9 grey levels in 3 splits of 24,000, 3,000 and 3,000. A mean more than 5.5 standard errors off has probability
        # 4e-8, so correct bits fail with probability 1e-6 over the choice of seed.
        splits = load(self.grey(30_000), binarize="static")
        p = torch.linspace(0, 1, 9)
        for part in (splits.train, splits.valid, splits.test):
            assert part.binarize == "static"
            assert torch.equal(part[:], part[:])
            error = (part[:].mean(0) - p).abs()
            assert (error <= 5.5 * (p * (1 - p) / len(part)).sqrt()).all(), error
        same = (splits.valid.values == splits.test.values).float().mean(0)[4]  # at grey 1/2: independent bits
        assert abs(same - 0.5) <= 5.5 * 0.5 / 3_000**0.5

    def test_the_seed_decides_the_bits(self):
        pytest.importorskip("sklearn")
        first, again, other = (load("digits", seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.test.values, again.test.values)
        assert torch.equal(first.valid.values, again.valid.values)
        assert not torch.equal(first.test.values, other.test.values)
        assert torch.equal(first.test.labels, other.test.labels)  # but not the split
        assert torch.equal(first.test.values, load("digits", binarize="static", seed=1).test.values)
        with pytest.raises(ValueError, match="between 0 and"):
            load("digits", seed=-1)

    def test_threshold_is_above_one_half(self):
        splits = load(torch.tensor([0.0, 0.5, 0.500001, 1.0]).repeat(20, 1), binarize="threshold")
        for part in (splits.train, splits.valid, splits.test):
            assert part.binarize == "threshold"
            assert (part[:] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
        grey = load(torch.tensor([0, 127, 128, 255], dtype=torch.uint8).repeat(20, 1), binarize="threshold")
        assert (grey.test[:] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()

    @pytest.mark.parametrize("mode", ["dynamic", "static", "threshold"])
    def test_only_values_between_0_and_1_are_binarised(self, mode):
        x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
        assert load(x, binarize=mode).train[:].unique().tolist() == [0.0, 1.0]
        x[7, 1] = -3
        with pytest.raises(
            ValueError, match=rf"binarize='{mode}': found values from -3 to .*, expected values in \[0, 1\]"
        ):
            load(x, binarize=mode)

    @pytest.mark.parametrize("mode", ["auto", "dynamic", "static", "threshold", None])
    def test_loading_moves_no_global_generator(self, mode):
        pytest.importorskip("sklearn")
        before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        for name in ("digits", self.grey(20)):
            load(name, binarize=mode)
        after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]


class TestMistakes:
    def test_unknown_names_and_modes_list_the_choices(self):
        with pytest.raises(
            ValueError, match=r"name: found 'minst', expected .*'digits', 'mnist', 'fashion_mnist', 'frey_faces'"
        ):
            load("minst")
        with pytest.raises(
            ValueError, match=r"binarize: found 'random', .*'auto', 'dynamic', 'static', 'threshold'\) or None"
        ):
            load("digits", binarize="random")

    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            ([[1.0]] * 20, TypeError, "data: found list, expected a tensor or a NumPy array"),
            (Path("mnist"), TypeError, r"data: found pathlib\..*, expected a tensor or a NumPy array"),
            (torch.rand(9, 2), ValueError, "data: found 9 of them, expected at least 10 for"),
            (torch.rand(0, 2), ValueError, r"found shape \(0, 2\)"),
            (
                torch.full((20, 2), torch.nan),
                ValueError,
                r"data: found nan at index \(0, 0\) of shape .*, expected finite",
            ),
        ],
    )
    def test_bad_arrays_are_named(self, x, error, message):
        with pytest.raises(error, match=message):
            load(x)

    def test_labels_must_fit(self):
        x = torch.rand(20, 2)
        with pytest.raises(ValueError, match=r"labels: found shape \(19,\) .*, expected 20 integers"):
            load(x, labels=torch.arange(19))
        with pytest.raises(ValueError, match=r"labels: found shape .* dtype torch.float32, expected 20 integers"):
            load(x, labels=torch.rand(20))
        with pytest.raises(
            ValueError, match="labels: found some for the data set 'digits', expected them for an array alone"
        ):
            load("digits", labels=torch.arange(1_797))


class TestImports:
    """A library is imported when its data are asked for, and one that is missing or broken is named."""

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_a_torchvision_made_for_another_torch(self, name, monkeypatch):
        real = sources.importlib.import_module

        def broken(module, *args):
            if module.startswith("torchvision"):
                raise RuntimeError("operator torchvision::nms does not exist")
            return real(module, *args)

        monkeypatch.setattr(sources.importlib, "import_module", broken)
        monkeypatch.setattr(sources, "version", {"torchvision": "0.28.0", "torch": "2.13.0+cpu"}.__getitem__)
        message = (
            rf"{name}: found torchvision 0.28.0 with torch 2.13.0\+cpu, expected .* can be imported: install the pair"
        )
        with pytest.raises(ImportError, match=message) as caught:
            load(name)
        assert "torchvision::nms" in str(caught.value.__cause__)
        assert len(load(torch.rand(20, 2)).train) == 16

    @pytest.mark.parametrize(
        ("name", "module", "package"),
        [
            ("mnist", "torchvision.datasets", "torchvision"),
            ("digits", "sklearn.datasets", "scikit-learn"),
            ("frey_faces", "scipy.io", "scipy"),
        ],
    )
    def test_a_library_that_is_not_installed(self, name, module, package, monkeypatch):
        def version(of):
            if of == package:
                raise sources.PackageNotFoundError(of)
            return "2.13.0"

        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr(sources, "version", version)
        with pytest.raises(
            ImportError, match=rf"{name}: found no {package} with torch 2.13.0.*, expected a {package} that .*pip"
        ):
            load(name)


def frey_file(path: Path, monkeypatch) -> bytes:
    """Write a file like the real one, with the number of each image in its pixels, and take its checksum for right."""
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.broadcast_to((np.arange(1_965) % 256).astype(np.uint8), (560, 1_965)).copy()
    images[0] = np.arange(1_965) // 256  # pixel (0, 0): with the others it tells every image from every other
    scipy_io.savemat(path, {"ff": images}, do_compression=True)
    monkeypatch.setattr(sources, "_FREY_SHA256", sources.hashlib.sha256(path.read_bytes()).hexdigest())
    return path.read_bytes()


class Response(io.BytesIO):
    """What ``urlopen`` returns, as far as ``torch.hub`` reads it."""

    def info(self):
        return self

    def get_all(self, header):
        return [str(len(self.getbuffer()))]


def run(script: str, *arguments: object) -> int:
    """Run a script of its own in another process and return its exit status."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False, timeout=120).returncode


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

    def test_a_download_that_was_killed_starts_again(self, tmp_path, monkeypatch):
        script = """
            import io, os, sys, torch
            from pyro_vae.data import load

            class Dying(io.BytesIO):
                def info(self): return self
                def get_all(self, header): return ["2000"]
                def read(self, size):
                    half = super().read(1000)
                    if not half:
                        os._exit(9)
                    return half

            torch.hub.urlopen = lambda request: Dying(bytes(1000))
            load("frey_faces", sys.argv[1])
        """
        root = tmp_path / "root"
        assert run(script, root) == 9
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


def mnist_files(raw: Path) -> None:
    """Write four files of the real sizes, nearly all zero (so sparse), with a mark in each split."""
    raw.mkdir(parents=True, exist_ok=True)
    marks = {"train": {0: 10, 49_999: 20, 50_000: 30, 59_999: 40}, "t10k": {0: 50, 9_999: 60}}
    for part, n in {"train": 60_000, "t10k": 10_000}.items():
        with (raw / f"{part}-images-idx3-ubyte").open("wb") as images:
            images.write(struct.pack(">4I", 0x0803, n, 28, 28))
            for index, mark in marks[part].items():
                images.seek(16 + 784 * index)
                images.write(bytes([mark]))
            images.truncate(16 + 784 * n)
        with (raw / f"{part}-labels-idx1-ubyte").open("wb") as labels:
            labels.write(struct.pack(">2I", 0x0801, n))
            for index, mark in marks[part].items():
                labels.seek(8 + index)
                labels.write(bytes([mark // 10]))
            labels.truncate(8 + n)


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

    def test_a_download_that_was_killed_starts_again(self, tmp_path, monkeypatch):
        script = """
            import os, pathlib, sys
            import torchvision.datasets.mnist as mnist
            from pyro_vae.data import load

            def dying(url, download_root, filename, md5):
                path = pathlib.Path(download_root, filename.removesuffix(".gz"))
                path.write_bytes(bytes(100))
                if filename.startswith("t10k-labels"):
                    os._exit(9)

            mnist.download_and_extract_archive = dying
            load("mnist", sys.argv[1])
        """
        assert run(script, tmp_path) == 9
        assert [path.name[:7] for path in tmp_path.iterdir()] == [".MNIST."]  # it did die half way

        def download(url, download_root, filename, md5):
            mnist_files(Path(download_root))

        monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", download)
        self.check(load("mnist", tmp_path, None))
        assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 4
        assert len(list(tmp_path.iterdir())) == 2  # the second attempt left nothing temporary of its own

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
