"""Which cells are meant: groups of them, and an AnnData that no longer has those that were read."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cells import cells, program


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
