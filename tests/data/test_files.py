"""Files of arrays and tables: what is read is what was written, and nothing in a file is run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pyro_vae.data.files import read_file
from pyro_vae.data.loading import load

X = np.random.RandomState(0).normal(size=(20, 3))
Y = np.arange(20) % 4


def together(splits):
    """All data of the three splits in the order of the file."""
    order = np.random.RandomState(0).permutation(20)
    return torch.cat([part.values for part in (splits.train, splits.valid, splits.test)]).numpy()[np.argsort(order)]


class TestNumPy:
    def test_an_array(self, tmp_path):
        np.save(tmp_path / "x.npy", X)
        splits = load(tmp_path / "x.npy", labels=Y)
        np.testing.assert_array_equal(together(splits), X)
        assert splits.name == "x.npy" and splits.train.values.dtype == torch.float64
        splits.train.values.zero_()
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), X)

    def test_an_archive_of_one_array_and_of_several(self, tmp_path):
        np.savez(tmp_path / "one.npz", X)
        np.testing.assert_array_equal(together(load(tmp_path / "one.npz")), X)
        names = np.array(["a", "c", "b", "c"])[Y]
        np.savez_compressed(tmp_path / "all.npz", x=X, y=Y, names=names)
        path = tmp_path / "all.npz"
        with pytest.raises(
            ValueError, match=r"all.npz: found the arrays x, y, names, expected one; key= names that of"
        ):
            load(path)
        with pytest.raises(ValueError, match=r"all.npz: found no array 'z', expected one of x, y, names"):
            load(path, key="z")
        np.testing.assert_array_equal(together(load(path, key="x")), X)
        splits = load(path, key="x", labels="y")
        assert torch.equal(splits.train.labels, load(X, labels=Y).train.labels) and splits.classes is None
        splits = load(path, key="x", labels="names")
        assert splits.classes == ("a", "b", "c")
        assert torch.equal(splits.train.labels, torch.tensor([0, 2, 1, 2])[load(X, labels=Y).train.labels])
        np.savez(tmp_path / "two.npz", x=X, y=Y)
        np.testing.assert_array_equal(together(load(tmp_path / "two.npz", labels="y")), X)

    def test_objects_are_not_unpickled(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (pytest.fail, ("a pickle was run",))

        np.save(tmp_path / "x.npy", np.array([Trap()] * 20, dtype=object), allow_pickle=True)
        np.savez(tmp_path / "x.npz", x=np.array([Trap()] * 20, dtype=object))
        for name in ("x.npy", "x.npz"):
            with pytest.raises(
                ValueError, match=rf"{name}: found a file that cannot be read \(it holds Python objects"
            ):
                load(tmp_path / name)
        (tmp_path / "x.npy").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match=r"x.npy: found a file that cannot be read"):
            load(tmp_path / "x.npy")

    @pytest.mark.parametrize("name", ["x.npy", "x.npz"])
    def test_truncated_and_corrupt_files(self, name, tmp_path):
        path = tmp_path / name
        np.savez(path, x=X) if name.endswith("z") else np.save(path, X)
        whole = path.read_bytes()
        for content in (b"", b"nothing of the kind", whole[:-100], whole[:40]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}: found a file that cannot be read"):
                load(path)

    def test_an_array_that_claims_more_than_its_file_holds(self, tmp_path):
        with (tmp_path / "x.npy").open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 10)}
            np.lib.format.write_array_header_1_0(file, header)
        with pytest.raises(ValueError, match=r"x.npy: found a file that cannot be read"):
            load(tmp_path / "x.npy")


class TestTables:
    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
    def test_columns_of_numbers_and_one_of_labels(self, suffix, tmp_path):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(X, columns=["a", "b", "c"]).assign(kind=np.array(["u", "w", "v", "w"])[Y])
        path = tmp_path / f"table{suffix}"
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
        splits = load(path, labels="kind")
        np.testing.assert_array_equal(together(splits), X)
        assert (splits.name, splits.classes) == (path.name, ("u", "v", "w"))
        with pytest.raises(TypeError, match=r"^data: found columns that hold no numbers, 'kind' \(object\), expected"):
            load(path)

    def test_a_csv_without_names_or_with_row_numbers(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        path, frame = tmp_path / "x.csv", pandas.DataFrame(X, columns=["a", "b", "c"])
        frame.to_csv(path, index=False, header=False)
        with pytest.raises(
            ValueError, match=r"x.csv: found numbers in the first row, expected the names of the columns"
        ):
            load(path)
        np.testing.assert_allclose(together(load(pandas.read_csv(path, header=None))), X, rtol=1e-14)
        frame.to_csv(path)
        with pytest.raises(ValueError, match=r"x.csv: found a first column without a name, which holds row numbers"):
            load(path)
        np.testing.assert_allclose(together(load(pandas.read_csv(path, index_col=0))), X, rtol=1e-14)

    def test_words_for_nothing_are_strings_among_strings(self, tmp_path):
        pytest.importorskip("pandas")
        path = tmp_path / "x.csv"
        path.write_text(
            "country,v,on,mixed,all,code\nNA,1.5,True,1,NA,0099\nNone,NA,,a,NA,0123\n,nan,False,NA,NA,\nDE,1,,2,NA,\n"
        )
        frame = read_file(path)
        assert frame["country"].isna().tolist() == [False, False, True, False]
        assert frame["country"].tolist()[:2] == ["NA", "None"] and frame["mixed"].tolist() == ["1", "a", "NA", "2"]
        assert frame["v"].isna().tolist() == [False, True, True, False] and frame["all"].isna().all()
        assert frame["on"].tolist()[:3:2] == [True, False] and frame["on"].isna().tolist() == [False, True, False, True]
        assert frame["code"].tolist()[:2] == [99, 123]  # columns of digits are numbers
        assert read_file(path, texts=["all"])["all"].tolist() == ["NA", "NA", "NA", "NA"]

    @pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
    def test_truncated_and_corrupt_files(self, name, tmp_path):
        pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
        for content in (b"", b"\xff\xfe\x00\x81,1\n2,3,4\n"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}: found a file that cannot be read"):
                load(tmp_path / name)


class TestPaths:
    def test_an_unknown_suffix_lists_what_is_taken(self, tmp_path):
        for name, shown in (("x.mat", "'.mat'"), ("x", "'none'"), ("x.pkl", "'.pkl'")):
            (tmp_path / name).write_bytes(b"1")
            with pytest.raises(
                ValueError, match=rf"{name}: found the suffix {shown}, expected a folder of pictures, or "
            ):
                load(tmp_path / name)

    def test_a_path_that_is_not_there(self, tmp_path):
        message = r"^data: found no file or folder '.*x.npy', expected a folder of pictures, or a file .npy, .npz, "
        for path in (tmp_path / "x.npy", str(tmp_path / "x.npy"), "x.npy"):
            with pytest.raises(FileNotFoundError, match=message):
                load(path)

    @pytest.mark.parametrize(
        ("name", "module", "package", "extra"),
        [
            ("x.csv", "pandas", "pandas", "tables"),
            ("x.parquet", "pyarrow", "pyarrow", "tables"),
            ("x.h5ad", "anndata", "anndata", "cells"),
            ("folder", "PIL.Image", "pillow", "images"),
        ],
    )
    def test_a_library_that_is_not_installed(self, name, module, package, extra, tmp_path, monkeypatch):
        if module == "pyarrow":
            pytest.importorskip("pandas")
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_bytes(b"a\n1\n")
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ImportError, match=rf"{name}: found .*{package}.*: pip install \"pyro_vae\[{extra}\]\"$"):
            load(tmp_path / name)
