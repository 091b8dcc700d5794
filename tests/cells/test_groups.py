"""Which cells are meant: groups of them, their batches, and an AnnData that no longer has those that were read."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd
import pytest

import pyro_vae
from pyro_vae.cells import Design
from pyro_vae.cells.groups import two_groups
from tests.support.cells import KEYS, adata, cells, program


class TestCellsThatWereRead:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda found: found._inplace_subset_obs(np.arange(40) >= 10),  # as scanpy.pp.filter_cells does
                "found 30 cells, expected the 40 that were read; make Cells anew",
            ),
            (
                lambda found: found._inplace_subset_obs(np.r_[0, 2, 1, 3:40]),
                "found 'cell2' in row 1, expected 'cell1', as the names that were read; make Cells anew",
            ),
            (
                lambda found: setattr(found, "obs_names", [f"c{n}" for n in range(40)]),
                "found 'c0' in row 0, expected 'cell0', as the names that were read; make Cells anew",
            ),
        ],
    )
    def test_an_anndata_with_other_cells_by_now_is_refused(self, change, message):
        read, vae = cells(), program()
        encoded = read.encode(vae)
        change(read.adata)
        for call in (
            lambda: read.differential_expression(vae, "A", groupby="type"),
            lambda: read.normalized_expression(vae),
            lambda: read.log_likelihood(vae),
            lambda: read.encode(vae, key="X_pyro_vae"),
        ):
            with pytest.raises(ValueError, match=f"^adata: {message}"):
                call()
        assert "X_pyro_vae" not in read.adata.obsm
        np.testing.assert_array_equal(read.encode(vae), encoded)  # of the matrix alone


class TestCategories:
    @pytest.mark.parametrize("kind", ["category", object, "float"])
    def test_cells_without_one_are_in_neither_group(self, kind):
        """Cells 0 to 9 are of one type, 10 to 19 of another, and the type of the other 20 is missing."""
        found = adata()
        names, values = (("1.0", "2.0"), (1.0, 2.0)) if kind == "float" else (("A", "B"), ("A", "B"))
        found.obs["kind"] = pd.Series([values[0]] * 10 + [values[1]] * 10 + [None] * 20, found.obs_names, dtype=kind)
        read, vae = pyro_vae.Cells.from_anndata(found, **KEYS), program()
        options = {"groupby": "kind", "num_samples": 20, "num_particles": 1, "seed": 0}
        frame = read.differential_expression(vae, names[0], **options)
        assert frame.equals(read.differential_expression(vae, *names, **options))
        np.testing.assert_allclose(frame["counts2"], found.X[10:20].mean(0))
        assert frame.attrs["num_missing"] == 20
        with pytest.raises(ValueError, match=r"^group1: found \['nan'\], expected those of 'kind': '[A1].*'"):
            read.differential_expression(vae, "nan", groupby="kind")
        with pytest.raises(ValueError, match="^group1: found all cells with a category in 'kind', expected"):
            read.differential_expression(vae, names, groupby="kind")

    def test_a_category_may_be_called_nan(self):
        found = adata()
        assert two_groups(found, [0, 1], None, None).num_missing == 0
        found.obs["kind"] = ["nan", "A"] * 20
        groups = two_groups(found, "nan", None, "kind")
        assert groups.first.tolist() == list(range(0, 40, 2)) and len(groups.second) == 20 and groups.num_missing == 0


class TestMasks:
    @pytest.mark.parametrize(
        "index",
        [
            [f"cell{n}" for n in range(20, 60)],  # half of them are no cells here
            range(1, 41),
            range(39, -1, -1),
            np.arange(40),  # names that are numbers
        ],
    )
    def test_a_mask_of_other_cells_is_refused(self, index):
        mask = pd.Series([True] * 20 + [False] * 20, index)
        with pytest.raises(ValueError, match=f"^group2: found a series whose index has '{index[0]}' in row 0"):
            two_groups(adata(), [0], mask, None)

    def test_a_mask_without_names_is_taken_by_place(self):
        mask = pd.Series([True] * 20 + [False] * 20)
        assert two_groups(adata(), mask, None, None).first.tolist() == list(range(20))
        mask.index = adata().obs_names
        assert two_groups(adata(), mask, None, None).first.tolist() == list(range(20))
        found = adata()
        found.obs_names = [str(n) for n in range(39, -1, -1)]  # 0 to 39 may be places, and may be names
        with pytest.raises(ValueError, match="^group1: found a series of the cells in another order, expected that of"):
            two_groups(found, mask.reset_index(drop=True), None, None)

    def test_a_series_of_indices_has_an_index_of_its_own(self):
        chosen = pd.Series([3, 5], ["cell3", "cell5"])
        assert two_groups(adata(), chosen, None, None).first.tolist() == [3, 5]


class TestBatches:
    def test_another_covariate_is_no_batch(self):
        """Without a batch_key the first categorical covariate has the place of the batch, and is none."""
        read = pyro_vae.Cells.from_anndata(adata(), categorical_covariate_keys=["batch"])
        again = Design.from_dict(json.loads(json.dumps(read.design.to_dict())))
        assert again == read.design and again.batches == read.of(adata()).design.batches == ()
        vae = read.program(2, hidden_dims=(5,))
        for call in (read.normalized_expression, functools.partial(read.differential_expression, group1=[0])):
            with pytest.raises(
                ValueError, match="^batch: found 'b1', expected one of the batches, none, without a batch"
            ):
                call(vae, batch="b1")
        with pytest.raises(
            ValueError, match="^inverse_dispersion: found 'gene-batch' without a batch_key, expected 'ge"
        ):
            read.program(inverse_dispersion="gene-batch")
        assert cells().program(inverse_dispersion="gene-batch").likelihood.raw_inverse_dispersion.shape == (3, 6)

    def test_files_from_before_mean_that_there_is_one(self):
        design = Design(("A", "B"), {"batch": ("b1", "b2")}, {"age": (40.0, 10.0)}, 1000.0)
        assert design.checksum == "682bef47362c5707"  # which saved programs have
        data = design.to_dict()
        assert data.pop("has_batch") is True and Design.from_dict(data) == design and design.batches == ("b1", "b2")
