"""What cannot be read from the disk is refused, by the file and with what is expected."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from pyro_vae.data import Stored, load, opening
from pyro_vae.data.conversion import as_batches
from tests.support import stored as places
from tests.support.stored import N, X


def refused(data, error, message, **options):
    with pytest.raises(error, match=message):
        Stored(data, **options)


def saved(path, values, **options):
    np.save(path, values, **options)
    return path


class TestFiles:
    def test_arrays_that_hold_no_numbers_in_rows(self, tmp_path):
        path = tmp_path / "x.npy"
        refused(saved(path, X.astype(complex)), TypeError, "^x.npy: found dtype complex128, expected real numbers")
        refused(saved(path, X[:0]), ValueError, r"^x.npy: found shape \(0, 6\), expected data \(N, \*data_shape\)")
        refused(saved(path, np.asfortranarray(X)), ValueError, "x.npy: found an array in Fortran's order, expected")
        refused(saved(path, 3.0), ValueError, "x.npy: found a single number, expected data")
        refused(
            saved(path, np.array([None]), allow_pickle=True), ValueError, "x.npy: found .* Python objects, which are"
        )

    def test_files_that_end_too_early(self, tmp_path):
        path = saved(tmp_path / "x.npy", X)
        data, mapped = Stored(path), np.load(path, mmap_mode="r")
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match="x.npy: found a file that ends after 1000 bytes, expected a whole one"):
            data[:]
        refused(path, ValueError, r"x.npy: found a file that cannot be read \(it ends after 1000 bytes\)")
        path.unlink()
        saved(path, X + 1)
        refused(
            mapped,
            ValueError,
            "x.npy: found another file than the one that was mapped, expected one that stays as it is",
        )

    def test_folders(self, tmp_path):
        saved(tmp_path / "a.npy", X), saved(tmp_path / "b.npy", X[:, :2])
        refused(
            tmp_path, ValueError, r"b.npy: found rows \(2,\) of float32, expected \(6,\) of float32 as in the first"
        )
        (tmp_path / "notes.txt").write_text("")
        refused(tmp_path, ValueError, "found 2 files of arrays and notes.txt, expected one kind")
        (tmp_path / "notes.txt").unlink(), (tmp_path / "b.npy").unlink()
        np.savez(tmp_path / "b.npz", x=X, y=X)
        refused(tmp_path, ValueError, r"found 2 files of arrays and .npy, .npz, expected one kind")

    def test_archives(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=X, y=X[:, 0])
        np.savez(tmp_path / "b.npz", x=X[:, :2])
        refused(tmp_path, ValueError, "a.npz: found the arrays x, y, expected one; key= names that of the data")
        refused(tmp_path, ValueError, "b.npz: found no array 'y', expected one of x", key="y")
        refused(
            tmp_path, ValueError, r"b.npz: found shape \(203, 2\) of float32, expected \(N, 6,?\) of float32", key="x"
        )


class TestLibraries:
    def test_zarr(self, tmp_path):
        array = places.zarr_array(tmp_path)
        refused(array, ValueError, "^key: found 'x' for an array of zarr, expected none", key="x")
        (tmp_path / "group").mkdir()
        group = places.zarr_group(tmp_path / "group")
        refused(group, ValueError, "^key: found 'y' for the group x.zarr, expected one of x", key="y")
        refused(group, ValueError, "^labels: found 'kind' for x.zarr/x, expected integers or names", labels="kind")

    def test_sparse_rows_by_columns(self, tmp_path):
        sparse = pytest.importorskip("scipy.sparse")
        path = places.cells(tmp_path, sparse.csc_matrix(X))
        refused(path, ValueError, r"^x.h5ad: found a sparse matrix by columns \(csc\), of which a row cannot be read")
        refused(
            path, ValueError, "^key: found 'raw' and no layers/raw in x.h5ad, expected .* 'dense', 'twice'", key="raw"
        )

    def test_parquet(self, tmp_path):
        path = places.parquet(tmp_path, kind=places.KINDS)
        refused(path, TypeError, r"^x.parquet: found the columns 'kind' \(string\) in 4 row groups, expected numbers")
        refused(path, ValueError, "^labels: found 'type', expected one of the columns column0, ", labels="type")
        path = places.parquet(tmp_path, gaps=[None, *range(N - 1)])
        with pytest.raises(
            ValueError, match=r"^x.parquet, row group 0, row 0 to 63: found missing entries in the columns 'g"
        ):
            Stored(path)[3]

    def test_hugging_face(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_dict({"x": X, "name": list("abc") * 67 + ["a", "b"], "y": np.arange(N)})
        refused(table, ValueError, r"^data: found a data set in the format None, expected x.with_format\('torch'\)")
        table = table.with_format("torch")
        refused(table, TypeError, r"^data: found the column 'name', which holds no numbers.*x.remove_columns\('name'\)")
        refused(table, ValueError, "^key: found 'z', expected one of the columns x, name, y", key="z")
        assert Stored(table, key="x", labels="y").shape == X.shape
        ragged = datasets.Dataset.from_dict({"x": [[1.0]] * 5 + [[1.0, 2.0]] * 5}).with_format("torch")
        with pytest.raises(ValueError, match=r"^the column 'x', row 0 to 9: found several shapes, expected \(1,\)"):
            Stored(ragged)[:]

    @pytest.mark.parametrize(
        ("library", "extra"), [("zarr", "zarr"), ("datasets", "datasets"), ("pyarrow.dataset", "tables")]
    )
    def test_that_are_missing(self, tmp_path, monkeypatch, library, extra):
        if library == "zarr":
            (tmp_path / "zarr.json").write_text("{}")
        elif library == "datasets":
            for name in ("dataset_info.json", "state.json"):
                (tmp_path / name).write_text(json.dumps({}))
        else:
            (tmp_path / "x.parquet").write_text("")
        monkeypatch.setitem(sys.modules, library, None)
        refused(tmp_path, ImportError, rf'found .*{library.partition(".")[0]}.*: pip install "pyro_vae\[{extra}\]"$')


class TestUse:
    def test_what_is_not_on_disk(self):
        refused(X, TypeError, "^data: found numpy.ndarray, expected data on disk, such as a memory map")
        refused("no such path", TypeError, "^data: found str, expected data on disk")
        refused((X, X), TypeError, "^data: found tuple, expected data on disk")
        for data in (X, "digits.csv", torch.from_numpy(X)):
            with pytest.raises(
                ValueError, match="^in_memory: found False for .*, expected data that can stay on disk: a"
            ):
                load(data, in_memory=False)

    def test_windows_that_are_too_small(self, tmp_path):
        path = places.parquet(tmp_path)
        refused(
            path,
            ValueError,
            "^window_bytes: found 0.977 KiB for x.parquet, whose largest block takes 3 KiB, expe",
            window_bytes=1000,
        )
        data = Stored(path, window_bytes=4000, num_workers=0)
        with pytest.warns(
            UserWarning, match="^window_bytes: found 3.91 KiB, which hold one block of x.parquet, of 3 KiB"
        ):
            as_batches(data, 20, device="cpu", dtype=torch.float32, shuffle=True)

    def test_entries_that_do_not_fit(self, tmp_path):
        mapped = np.load(saved(tmp_path / "x.npy", X), mmap_mode="r")
        refused((mapped, X[:5]), ValueError, "^data: found entries of 203 and 5 data, expected equally many")
        refused(
            (mapped, [1, 2]), TypeError, "^data: found list beside data on disk, expected arrays and data on disk al"
        )
        splits = load(mapped, in_memory=False)
        refused(
            (splits.train, splits.test), ValueError, "^data: found entries of other rows, expected splits of one call"
        )
        refused((splits.train, X), ValueError, "^data: found entries of 163 and 203 data, expected equally many")
        pair = Stored((mapped, X))
        refused((pair, X), ValueError, "^data: found 2 columns as one entry of several, expected one")

    def test_options_of_load(self, tmp_path):
        path = saved(tmp_path / "x.npy", X)
        options = {"in_memory": False}
        with pytest.raises(
            ValueError, match="^binarize, dequantize: found 'static' and False for data on disk, expected"
        ):
            load(path, binarize="static", **options)
        with pytest.raises(ValueError, match="^size: found .* for data on disk, expected none"):
            load(path, size=3, **options)
        pictures = saved(tmp_path / "y.npy", np.zeros((20, 8, 8, 3), np.uint8))
        with pytest.raises(ValueError, match=r"^data: found shape \(20, 8, 8, 3\), which looks like pictures"):
            load(pictures, **options)
        with pytest.raises(
            ValueError, match="^channels: found 'last' for data on disk, expected data that were written"
        ):
            load(pictures, channels="last", **options)
        np.savez(tmp_path / "z.npz", x=X, y=np.arange(N))
        assert load(tmp_path / "z.npz", key="x", labels="y", **options).test.labels.shape == (20,)

    def test_bytes_are_grey_levels_unless_none_is_above_one(self, tmp_path):
        for values in (np.arange(40 * 9, dtype=np.uint8).reshape(40, 3, 3), (X > 1).astype(np.uint8)):
            path = saved(tmp_path / "x.npy", values)
            found, expected = load(path, in_memory=False).train, load(values).train
            assert torch.equal(
                found[:].float(),
                expected[:][np.argsort(np.random.RandomState(0).permutation(len(values))[: len(expected)])],
            )
            assert torch.equal(found.mean(), expected.mean())

    def test_entries_of_splits_keep_their_labels(self, tmp_path, monkeypatch):
        path, y = saved(tmp_path / "x.npy", X), torch.from_numpy(X.sum(1)).long()
        splits = load(path, labels=y, in_memory=False)
        programs = (lambda x, y: None, lambda x, y: None)
        options = {"device": "cpu", "dtype": torch.float32, "shuffle": True, "programs": programs}
        for batch in as_batches((splits.train, splits.train.labels), 20, **options):
            x, label = batch.args
            assert torch.equal(x.sum(1).long(), label)
        monkeypatch.setattr(opening, "total_memory", lambda: 1)
        for batch in as_batches({"x": np.load(path, mmap_mode="r"), "y": y}, 20, **options):
            assert torch.equal(batch.kwargs["x"].sum(1).long(), batch.kwargs["y"])
        with pytest.warns(UserWarning, match="^data: found batches of 2 entries, expected one"):
            (only,) = as_batches((splits.test, splits.test.labels), 20, **options | {"programs": (lambda x: None,) * 2})
        assert torch.equal(only, splits.test[:][torch.argsort(torch.randperm(20))]) or only.shape == (20, 6)
