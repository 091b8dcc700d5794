"""From an AnnData and back: sparse as dense, codes by name, what is refused, files."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import Cells
from pyro_vae.cells import Design
from pyro_vae.data.sparse import SparseSplit
from tests.support.cells import GENES, KEYS, adata, cells, program


class TestReading:
    def test_a_row_has_counts_and_covariates(self):
        found = adata()
        read = Cells.from_anndata(found, **KEYS)
        x, library, code, age = np.split(read.matrix, [GENES, GENES + 1, GENES + 2], 1)
        np.testing.assert_array_equal(x, found.X)
        np.testing.assert_array_equal(library[:, 0], found.X.sum(1))
        assert [f"b{int(each)}" for each in code[:, 0]] == found.obs["batch"].tolist()
        ages = found.obs["age"].to_numpy()
        np.testing.assert_allclose(age[:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-6)
        assert read.design.layout == (GENES, (3,), 1) and read.design.batches == ("b0", "b1", "b2")
        assert read.design.typical_library == np.median(found.X.sum(1)) and len(read) == 40

    @pytest.mark.parametrize("make", ["csr_matrix", "csc_matrix", "csr_array"])
    def test_sparse_is_dense_bit_for_bit(self, make):
        dense, found = cells(), adata()
        found.X = getattr(scipy.sparse, make)(found.X)
        sparse, vae = Cells.from_anndata(found, **KEYS), program()
        assert isinstance(sparse.data, SparseSplit) and torch.equal(sparse.data[:], dense.data)
        np.testing.assert_array_equal(sparse.encode(vae, batch_size=7), dense.encode(vae, batch_size=7))
        expression = [each.normalized_expression(vae, seed=0) for each in (sparse, dense)]
        assert expression[0].equals(expression[1])
        options = {"groupby": "type", "num_particles": 100, "seed": 0}
        changes = [each.differential_expression(vae, "A", **options) for each in (sparse, dense)]
        assert changes[0].equals(changes[1])
        loader = DataLoader(TensorDataset(dense.data), 20)
        expected = pyro_vae.log_likelihood(vae.model, vae.guide, loader, 30, seed=0)
        np.testing.assert_array_equal(
            sparse.log_likelihood(vae, 30, batch_size=20, seed=0)["log_likelihood"], expected.values
        )

    def test_entries_that_are_stored_in_parts_are_summed(self):
        expected = scipy.sparse.csr_matrix(adata().X)
        twice = np.repeat(expected.data / 2, 2), np.repeat(expected.indices, 2), 2 * expected.indptr
        found = adata()
        found.X = scipy.sparse.csr_matrix(twice, expected.shape)
        read = Cells.from_anndata(found)
        np.testing.assert_array_equal(read.matrix[:, :GENES].toarray(), expected.toarray())
        assert found.X.nnz == 2 * expected.nnz  # as it was
        found.X.data[:2] = 0.5, 0.75
        with pytest.raises(ValueError, match="^adata.X: found 1.25 for cell 'cell0' and gene 'gene0', no whole number"):
            Cells.from_anndata(found)

    def test_a_layer_takes_the_place_of_x(self):
        found = adata()
        found.layers["counts"], found.X = found.X, np.log1p(found.X)
        read = Cells.from_anndata(found, layer="counts")
        np.testing.assert_array_equal(read.matrix[:, :GENES], found.layers["counts"])
        assert read.design.layout == (GENES, (), 0) and read.of(found[:3]).layer == "counts"

    def test_other_cells_are_coded_alike(self):
        read, found = cells(), adata()
        some = read.of(found[[4, 1]])
        np.testing.assert_array_equal(some.matrix, read.matrix[[4, 1]])
        other = read.of(found[:, ::-1].copy())  # the same genes in another order
        np.testing.assert_array_equal(other.matrix, read.matrix)

    def test_the_median_is_of_the_cells_that_were_fitted_on(self):
        read = cells()
        assert read.of(adata()[:3]).design == read.design
        assert read.program().model.typical.item() == pytest.approx(read.design.typical_library)


class TestResults:
    def test_encodings_go_into_the_anndata(self):
        read, vae = cells(), program()
        found = read.encode(vae, key="X_pyro_vae")
        np.testing.assert_array_equal(read.adata.obsm["X_pyro_vae"], found)
        np.testing.assert_array_equal(found, vae.encode(read.data).numpy())
        some = read.of(read.adata[:3])
        assert some.encode(vae).shape == (3, 2)
        with pytest.raises(ValueError, match="^key: found cells that are a view of an AnnData, expected a copy"):
            some.encode(vae, key="X_pyro_vae")

    def test_scores_have_the_names_of_cells(self):
        read, vae = cells(), program()
        frame = read.log_likelihood(vae, 50, seed=0)
        expected = pyro_vae.log_likelihood(vae.model, vae.guide, read.data, 50, seed=0)
        assert frame.index.tolist() == read.adata.obs_names.tolist()
        assert frame.columns.tolist() == ["log_likelihood", "std_error", "ess", "khat"]
        for name, values in zip(frame, expected, strict=True):
            np.testing.assert_array_equal(frame[name], values)

    def test_a_program_refuses_cells_that_are_coded_otherwise(self, tmp_path):
        read = cells()
        pyro_vae.save(read.program(2, hidden_dims=(5,)), tmp_path)
        vae = pyro_vae.load(tmp_path)
        assert read.of(adata()[:, ::-1].copy()).encode(vae).shape == (40, 2)
        batches = adata()
        batches.obs["batch"] = batches.obs["batch"].replace("b0", "b9")  # whose codes are 0, 1, 2 all the same
        for other in (adata()[:, ::-1].copy(), batches, adata(seed=1)):  # the last has other scales of the age
            found = Cells.from_anndata(other, **KEYS)
            for call in (found.encode, found.log_likelihood, found.normalized_expression):
                with pytest.raises(ValueError, match="^vae: found a program of cells with other genes, another order"):
                    call(vae)
        assert Cells.from_anndata(other, **KEYS).encode(program()).shape == (40, 2)  # which was made without a design

    def test_files_bring_all_of_it_back(self, tmp_path):
        read, vae = cells(sparse=True), program()
        encoded = read.encode(vae, key="X_pyro_vae")
        read.adata.write_h5ad(tmp_path / "cells.h5ad")
        pyro_vae.save(vae, tmp_path / "vae")
        (tmp_path / "design.json").write_text(json.dumps(read.design.to_dict()))
        design = Design.from_dict(json.loads((tmp_path / "design.json").read_text()))
        again = Cells.from_anndata(anndata.read_h5ad(tmp_path / "cells.h5ad"), design=design)
        assert (again.matrix != read.matrix).nnz == 0 and again.design == read.design
        np.testing.assert_array_equal(again.encode(pyro_vae.load(tmp_path / "vae")), encoded)
        np.testing.assert_array_equal(again.adata.obsm["X_pyro_vae"], encoded)


def changed(change):
    found = adata()
    change(found)
    return found


def at(value):
    def change(found):
        found.X[3, 2] = value

    return change


def obs(name, value, row=None):
    def change(found):
        found.obs[name] = found.obs[name].astype(object) if row is not None else value
        if row is not None:
            found.obs.iloc[row, found.obs.columns.get_loc(name)] = value

    return change


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                at(0.6931),
                r"adata.X: found 0.6931 for cell 'cell3' and gene 'gene2', no whole number, as log-normalised",
            ),
            (
                at(-1),
                "adata.X: found -1 for cell 'cell3' and gene 'gene2', negative, as scaled values are; expected raw",
            ),
            (at(np.nan), r"adata.X: found nan at index \(3, 2\)"),
            (
                at(2.0**25),
                "adata.X: found 3.35544e.07 for cell 'cell3' and gene 'gene2', expected at most 16777216 mole",
            ),
            (lambda found: found.X.__setitem__(7, 0), "adata: found no count in cell 'cell7', expected one or more"),
            (lambda found: setattr(found, "X", None), "adata: found no X, expected layer= to name one of the layers"),
            (
                lambda found: setattr(found, "var_names", ["a"] * 2 + list("bcde")),
                "adata: found two genes named 'a', ex",
            ),
            (obs("batch", "one"), r"obs\['batch'\]: found 'one' in all cells, expected two categories or more"),
            (
                obs("batch", [f"c{n}" for n in range(40)]),
                r"obs\['batch'\]: found 40 categories among 40 cells, expected",
            ),
            (obs("batch", None, 5), r"obs\['batch'\]: found no value for cell 'cell5', expected one for each cell"),
            (obs("age", 1.0), r"obs\['age'\]: found 1 in all cells, expected numbers that differ"),
            (obs("age", np.inf), r"obs\['age'\]: found inf, expected finite numbers"),
            (obs("age", "old"), r"obs\['age'\]: found object, expected numbers; categories belong in batch_key or"),
        ],
    )
    def test_what_makes_no_cells(self, change, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            Cells.from_anndata(changed(change), **KEYS)

    def test_sparse_entries_are_named_too(self):
        found = adata()
        found.X[3, 2] = 1.5
        found.layers["raw"], found.X = adata().X, scipy.sparse.csc_matrix(found.X)
        with pytest.raises(
            ValueError, match=r"^adata.X: found 1.5 for cell 'cell3' and .*pass one of the layers \['raw'"
        ):
            Cells.from_anndata(found)

    def test_other_arguments(self):
        found = adata()
        with pytest.raises(TypeError, match="^adata: found ndarray, expected an AnnData: anndata.read_h5ad"):
            Cells.from_anndata(found.X)
        with pytest.raises(ValueError, match=r"^adata: found the shape \(0, 6\), expected a cell and a gene or more"):
            Cells.from_anndata(found[:0])
        with pytest.raises(ValueError, match="^layer: found 'raw', expected one of the layers of the AnnData, none"):
            Cells.from_anndata(found, layer="raw")
        with pytest.raises(ValueError, match="^obs: found no column 'donor', expected one of 'batch', 'type', 'age'"):
            Cells.from_anndata(found, batch_key="donor")
        with pytest.raises(ValueError, match="^covariates: found .*'batch', 'batch'.*, expected each column once"):
            Cells.from_anndata(found, batch_key="batch", categorical_covariate_keys=["batch"])
        with pytest.raises(ValueError, match="^design: found one and the keys .'batch'., expected one of the two"):
            Cells.from_anndata(found, batch_key="batch", design=cells().design)

    def test_backed_files(self, tmp_path):
        adata().write_h5ad(tmp_path / "cells.h5ad")
        found = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        with pytest.raises(ValueError, match="^adata: found an AnnData backed by its file, expected one in memory"):
            Cells.from_anndata(found)
        found.file.close()

    def test_cells_that_do_not_fit_the_design(self):
        read = cells()
        with pytest.raises(
            ValueError, match=r"^obs\['batch'\]: found 'b9', expected one of the 3 categories that the des"
        ):
            read.of(changed(obs("batch", "b9", 2)))
        with pytest.raises(
            ValueError, match="^adata: found 5 genes, of which 0 are not in the design, which has 1 others"
        ):
            read.of(adata()[:, 1:])
        with pytest.raises(ValueError, match=r"^vae: found a program of Layout\(num_genes=6, categories=\(\), num_con"):
            read.encode(pyro_vae.CellVAE(GENES))

    @pytest.mark.parametrize(
        "change",
        [{"genes": []}, {"genes": ["a", "a"]}, {"typical_library": 0}, {"categories": 3}, {"has_batch": "no"}],
    )
    def test_designs_that_are_none(self, change):
        with pytest.raises(ValueError, match="^data: found"):
            Design.from_dict(cells().design.to_dict() | change)
