"""Sparse rows: dense in a batch alone, and the same numbers as the dense array gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.data.loading import load
from pyro_vae.data.sparse import SparseSplit

sparse = pytest.importorskip("scipy.sparse")

COUNTS = np.random.RandomState(0).poisson(0.4, (40, 6))


def programs(data_shape=(6,)):
    torch.manual_seed(1)
    likelihood = pyro_vae.Poisson(pyro_vae.MLP(2, data_shape, hidden_dims=(4,)), data_shape)
    return pyro_vae.VAE(data_shape, 2, (4,), likelihood)


class TestSplits:
    @pytest.mark.parametrize("make", ["csr_matrix", "csc_matrix", "coo_array", "csr_array", "lil_matrix"])
    @pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.uint16, bool])
    def test_rows_are_split_as_those_of_the_array(self, make, dtype):
        dense = COUNTS.astype(dtype)
        splits, expected = load(getattr(sparse, make)(dense), labels=np.arange(40)), load(dense.astype(np.float64))
        for name in ("train", "valid", "test"):
            found, array = getattr(splits, name), getattr(expected, name)
            assert isinstance(found, SparseSplit) and sparse.issparse(found.values)
            assert torch.equal(found[:], array[:]) and found[:].dtype == torch.float32
            assert torch.equal(found[2], array[2]) and torch.equal(found[[2, 0]], array[[2, 0]])
            assert torch.equal(found[torch.tensor([2, 0])], array[[2, 0]])
            assert torch.equal(torch.stack(found.__getitems__([1, 3])).float(), array[[1, 3]])
            torch.testing.assert_close(found.mean(), array.mean())
            assert torch.equal(found[:], torch.from_numpy(dense.astype(np.float32))[found.labels])
        assert (splits.data_shape, splits.name, splits.train.shape) == ((6,), "array", (32, 6))
        assert repr(splits.train).startswith("SparseSplit(32 x (6,), ") and repr(splits.train).endswith(
            "stored, on cpu)"
        )

    def test_entries_given_twice_are_added(self):
        twice = sparse.coo_array((np.ones(3), ([0, 0, 1], [2, 2, 0])), shape=(10, 3))
        assert SparseSplit(twice)[0].tolist() == [0.0, 0.0, 2.0]

    def test_training_is_that_of_a_loader_of_the_dense_rows(self):
        records = []
        for data in (SparseSplit(sparse.csr_array(COUNTS)), DenseRows()):
            vae = programs()
            history = pyro_vae.fit(vae.model, vae.guide, data, num_epochs=2, batch_size=10, seed=0, progress=False)
            records.append([record["train_bound"] for record in history.records])
            estimate = pyro_vae.log_likelihood(vae.model, vae.guide, data, 5, seed=0)
            records[-1] += estimate.values.tolist()
        assert records[0] == records[1]

    def test_labels_beside_them(self):
        data = SparseSplit(sparse.csr_array(COUNTS)), torch.arange(40) % 2
        cvae = pyro_vae.ConditionalVAE((6,), 2, 2, (4,), "gaussian")
        history = pyro_vae.fit(cvae.model, cvae.guide, data, num_epochs=1, batch_size=10, seed=0, progress=False)
        dense = DataLoader(TensorDataset(torch.from_numpy(COUNTS).float(), data[1]), 10)
        assert len(history.records) == 1
        batches = pyro_vae.data.as_batches(
            data, 10, device="cpu", dtype=torch.float32, shuffle=False, programs=(cvae.model, cvae.guide)
        )
        for found, (x, y) in zip(batches, dense, strict=True):
            assert torch.equal(found.args[0], x) and torch.equal(found.args[1], y)

    def test_large_counts_are_not_rounded_in_silence(self):
        large = sparse.csr_array(np.full((10, 6), 2**24 + 1))
        with pytest.raises(
            ValueError, match=r"^data: found the whole number 16777217, expected at most 16777216, from"
        ):
            load(large)
        x = load(large.astype(float)).train
        (batch,) = pyro_vae.data.as_batches(x, 8, device="cpu", dtype=torch.float64, shuffle=False)
        assert (batch == 2**24 + 1).all()


class DenseRows(torch.utils.data.Dataset):
    def __len__(self):
        return len(COUNTS)

    def __getitem__(self, index):
        return torch.from_numpy(COUNTS[index])


class TestRefused:
    def test_by_load(self):
        with pytest.raises(TypeError, match="^data: found a sparse matrix of dtype complex128, expected real numbers"):
            load(sparse.csr_array(np.ones((20, 2), complex)))
        with pytest.raises(
            ValueError, match=r"^data: found a sparse matrix of shape \(0, 2\), expected \(N, D\), both 1"
        ):
            load(sparse.csr_array((0, 2)))
        holes = np.zeros((20, 3))
        holes[4, 1], holes[3, 2] = np.nan, np.inf
        with pytest.raises(ValueError, match=r"^data: found inf at index \(3, 2\) of a sparse matrix, expected finite"):
            load(sparse.csr_array(holes))
        for option in ({"binarize": "static"}, {"dequantize": True}):
            with pytest.raises(
                ValueError, match=r"^binarize, dequantize: found .* for sparse data, .*give x.toarray\(\)"
            ):
                load(sparse.csr_array(COUNTS), **option)
        with pytest.raises(ValueError, match="^labels: found 'kind' for a sparse matrix, expected integers or names"):
            load(sparse.csr_array(COUNTS), labels="kind")
        with pytest.raises(ValueError, match="^labels: found 3 labels for 40 data, expected one a datum"):
            SparseSplit(sparse.csr_array(COUNTS), labels=torch.arange(3))

    def test_where_an_array_is_expected(self):
        vae, x = programs(), sparse.csr_array(COUNTS)
        with pytest.raises(
            TypeError, match=r"^x: found csr_array.*; x.toarray\(\) is dense, and pyro_vae.data.load\(x\)"
        ):
            pyro_vae.log_weights(vae.model, vae.guide, x)


class TestCells:
    @pytest.fixture
    def cells(self):
        anndata = pytest.importorskip("anndata")
        pandas = pytest.importorskip("pandas")
        names = [f"cell{index}" for index in range(40)]
        obs = pandas.DataFrame({"kind": pandas.Categorical(["T", "B", "T", "NK"] * 10)}, index=names)
        found = anndata.AnnData(sparse.csr_matrix(COUNTS.astype(np.float32)), obs=obs)
        found.layers["log"] = np.log1p(COUNTS)
        found.layers["counts"] = sparse.csr_matrix(COUNTS)
        return found

    def test_x_is_sparse_and_a_layer_may_be_dense(self, cells):
        splits = load(cells, labels="kind")
        assert splits.classes == ("B", "NK", "T") and isinstance(splits.train, SparseSplit)
        expected = load(COUNTS.astype(float), labels=np.array([2, 0, 2, 1] * 10))
        assert torch.equal(splits.train[:], expected.train[:])
        assert torch.equal(splits.train.labels, expected.train.labels)
        assert torch.equal(load(cells, key="counts").test[:], expected.test[:])
        assert torch.equal(load(cells, key="log").train.values, load(np.log1p(COUNTS)).train.values)

    def test_from_a_file(self, cells, tmp_path):
        cells.write_h5ad(tmp_path / "cells.h5ad")
        splits = load(tmp_path / "cells.h5ad", key="counts")
        assert splits.name == "cells.h5ad" and torch.equal(splits.train[:], load(COUNTS * 1.0).train[:])
        (tmp_path / "cells.h5ad").write_bytes(b"no file of the kind")
        with pytest.raises(ValueError, match=r"cells.h5ad: found a file that cannot be read"):
            load(tmp_path / "cells.h5ad")

    def test_refusals(self, cells, tmp_path):
        anndata = pytest.importorskip("anndata")
        with pytest.raises(
            ValueError, match=r"^key: found 'raw', expected one of the layers of the AnnData, 'log', 'co"
        ):
            load(cells, key="raw")
        with pytest.raises(ValueError, match=r"^labels: found 'type', expected one of the columns 'kind'"):
            load(cells, labels="type")
        cells.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        with pytest.raises(ValueError, match=r"^data: found a part of an AnnData backed by its file, expected all of"):
            load(backed[:20])
        with pytest.raises(
            ValueError, match=r"^key: found 'raw', expected one of the layers of the AnnData, 'counts', 'log'"
        ):
            load(backed, key="raw")
        backed.file.close()
        cells.X = None
        with pytest.raises(
            ValueError, match=r"^data: found an AnnData without X, expected key= to name one of its lay"
        ):
            load(cells)
        with pytest.raises(ValueError, match=r"^data: found an AnnData without X, expected the matrix of a layer"):
            pyro_vae.log_likelihood(programs().model, programs().guide, cells, 2)

    def test_they_are_trained_on_as_they_are(self, cells):
        expected = None
        for data in (cells, cells.X, cells.layers["counts"].astype(np.float32), SparseSplit(cells.X)):
            torch.manual_seed(0)
            vae = programs()
            pyro_vae.fit(vae.model, vae.guide, data, num_epochs=2, batch_size=8, seed=0, progress=False)
            expected = expected or vae.state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in vae.state_dict().items())
