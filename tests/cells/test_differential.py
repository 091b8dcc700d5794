"""Normalised and differential expression: against quadrature, and against fold changes that are known."""

from __future__ import annotations

import math

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae
from pyro_vae import CellVAE
from pyro_vae.cells.differential import FoldChanges, summary
from pyro_vae.cells.likelihood import CellCounts
from tests.support.cells import GENES, ByMarker, LinearDecoder, adata, cells, program

BASE, WEIGHT = torch.tensor([0.5, 0.0, -0.5, 0.3]), torch.tensor([0.8, -0.6, 0.0, 0.05])
BATCH = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.5, 0.0]])


def known(scale: float = 0.2, weight: torch.Tensor = WEIGHT):
    """Cells of two types whose latents the guide knows, all of one type in one batch, and a known decoder."""
    marker = np.where(np.arange(60) % 2, 9, 1)
    x = np.stack([marker, np.full(60, 4), np.full(60, 3), np.arange(60) % 5], 1).astype(np.float32)
    obs = pd.DataFrame({"type": np.where(marker > 5, "A", "B"), "batch": np.where(marker > 5, "one", "two")},
                       [f"cell{n}" for n in range(60)])  # fmt: skip
    found = pyro_vae.Cells.from_anndata(anndata.AnnData(x, obs), batch_key="batch")
    likelihood = CellCounts(LinearDecoder(BASE, weight, BATCH), 4, (2,))
    return found, CellVAE(4, 1, likelihood=likelihood, categories=(2,), posterior=ByMarker(scale))


def exact_changes(scale: float, delta: float):
    """The mean log₂ fold change, and the probability that it is above delta, on a grid of the two latents."""
    axis = np.linspace(-5, 5, 201)
    weights = np.exp(-(axis**2) / 2) / np.exp(-(axis**2) / 2).sum()
    means, above = np.zeros(4), np.zeros(4)
    for code in range(2):
        latents = [torch.from_numpy(centre + scale * axis)[:, None] for centre in (1.0, -1.0)]
        log_rho = [(BASE + z * WEIGHT + BATCH[code]).log_softmax(-1).numpy() for z in latents]
        lfc = (log_rho[0][:, None] - log_rho[1][None]) / math.log(2)  # (201, 201, 4)
        both = weights[:, None, None] * weights[None, :, None] / len(BATCH)
        means, above = means + (both * lfc).sum((0, 1)), above + (both * (np.abs(lfc) > delta)).sum((0, 1))
    return means, above


class TestDifferentialExpression:
    def test_known_changes_are_found_within_their_error(self):
        found, vae = known()
        frame = found.differential_expression(vae, "A", "B", "type", delta=0.7, num_particles=1, seed=0)
        mean, above = exact_changes(0.2, 0.7)
        assert frame.index.tolist() == ["0", "1", "2", "3"]
        assert ((frame["lfc_mean"] - mean).abs() < 5 * frame["lfc_error"]).all()  # one false alarm in 400,000 seeds
        assert ((frame["probability"] - above).abs() < 5 * frame["probability_error"]).all()
        assert (frame["lfc_error"] < 0.02).all() and 0.05 < above[2] < 0.95
        assert frame["bayes_factor"].iloc[1] == pytest.approx(math.log(2 * 2000 + 1))  # all draws agree
        ordered = frame.sort_values("probability", ascending=False)
        np.testing.assert_allclose(ordered["fdr"], (1 - ordered["probability"]).expanding().mean())
        assert frame.attrs["num_samples"] == 2000 and frame.attrs["ess"] == pytest.approx(1)

    def test_a_share_too_small_for_float32_has_a_change(self, monkeypatch):
        monkeypatch.setitem(globals(), "BASE", BASE - 150 * torch.eye(4)[0])  # exp(-150) is zero in float32
        found, vae = known()
        frame = found.differential_expression(vae, "A", "B", "type", delta=0.7, num_particles=1, seed=0)
        mean, _ = exact_changes(0.2, 0.7)
        assert abs(frame["lfc_mean"].iloc[0] - mean[0]) < 5 * frame["lfc_error"].iloc[0] and mean[0] > 1
        assert 0 < frame["expression1"].iloc[0] < 1e-40 and frame["probability"].iloc[0] > 0.9

    def test_a_difference_of_batches_is_none_of_expression(self):
        """The groups are in two batches, in which all genes differ, and the latents say nothing."""
        found, vae = known(weight=torch.zeros(4))
        frame = found.differential_expression(vae, "A", groupby="type", seed=0)
        assert (frame["lfc_mean"].abs() < 1e-6).all() and (frame["probability"] == 0).all()
        assert (frame["bayes_factor"] == -frame["bayes_factor"].abs()).all()

    def test_a_batch_can_be_given(self):
        found, vae = known()
        frame = found.differential_expression(vae, "A", "B", "type", batch="two", num_particles=1, seed=0)
        z = 1 + 0.2 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
        expected = (BASE + z * WEIGHT + BATCH[1]).softmax(-1).mean(0) * found.design.typical_library
        np.testing.assert_allclose(frame["expression1"], expected, rtol=0.02)  # five standard errors of 2,000 draws

    def test_importance_weights_take_out_the_guides_error(self):
        """The guide has a width of 1 and the posterior another place; the mean of ρ is by quadrature."""
        found, vae = known(scale=1.0)
        exact = by_quadrature(found, vae)
        weighted = found.normalized_expression(vae, 1.0, num_particles=4000, seed=0).to_numpy()
        assert np.abs(weighted - exact).max() < 0.02 < np.abs(
            found.normalized_expression(vae, 1.0, num_particles=1, seed=0).to_numpy() - exact
        ).max()  # fmt: skip
        errors = []
        for num_particles in (1, 200):
            options = {"num_samples": 4000, "num_particles": num_particles, "batch": "one", "seed": 0}
            frame = found.differential_expression(vae, "A", "B", "type", **options)
            of_first = by_quadrature(found, vae, code=0)[found.adata.obs["type"] == "A"].mean(0)
            errors.append(np.abs(frame["expression1"] / found.design.typical_library - of_first).max())
        assert errors[1] < 0.01 < errors[0]

    def test_masks_and_indices_are_names(self):
        found, vae = known()
        is_first = (found.adata.obs["type"] == "A").to_numpy()
        frames = [found.differential_expression(vae, *groups, num_samples=50, seed=0) for groups in (
            ("A", "B", "type"), (["A"], None, "type"), (is_first,), (is_first.nonzero()[0], ~is_first))]  # fmt: skip
        assert all(frame.equals(frames[0]) for frame in frames)

    def test_the_callers_generator_stays_as_it_was(self):
        found, vae = known()
        before = torch.get_rng_state()
        found.differential_expression(vae, "A", groupby="type", num_samples=20, num_particles=1, seed=0)
        found.normalized_expression(vae, seed=0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_nothing_is_said_of_genes_without_counts(self):
        changes = FoldChanges(torch.randn(50, 3) + 3, torch.ones(3) / 3, torch.ones(3) / 3, torch.ones(100))
        found = summary(changes, [np.array([1.0, 0, 0]), np.array([0.0, 0, 2])], 0.25, 100.0)
        assert np.isnan(found["probability"]).tolist() == [False, True, False] == np.isnan(found["fdr"]).tolist()
        assert np.isnan(found["lfc_mean"][1]) and found["counts1"].tolist() == [1, 0, 0]

    def test_a_pseudocount_damps_changes(self):
        found, vae = known()
        frames = [
            found.differential_expression(vae, "A", groupby="type", pseudocount=each, seed=0) for each in (0.0, 1.0)
        ]
        assert (frames[1]["lfc_mean"].abs() < frames[0]["lfc_mean"].abs()).all()

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            (("C", None, "type"), r"group1: found \['C'\], expected those of 'type': 'A', 'B'"),
            (("A", "A", "type"), "group1, group2: found 30 cells in both, such as 'cell1', expected none"),
            ((["A", "B"], None, "type"), "group1: found all cells, expected a group and others to compare it with"),
            (("A", None, "kind"), r"groupby: found 'kind', expected a column of obs, one of \['type', 'batch'\]"),
            (("A",), "group1: found str without groupby, expected a mask or indices, or groupby= to name the column"),
            ((np.ones(3, bool),), "group1: found a mask of 3 cells, expected 60"),
            ((np.arange(60) % 2,), r"group1: found zeros and ones, one for each cell, expected a mask, group1.astype"),
            (
                (pd.Series(np.arange(60) > 9, [f"cell{n}" for n in range(60)])[::-1],),
                "group1: found a series of the cells in another order, expected that of adata.obs_names",
            ),
            (([61],), "group1: found no cell, or indices outside of 0 to 59, expected cells"),
            ((np.zeros(60, bool),), "group1: found no cell, or indices outside of 0 to 59, expected cells"),
        ],
    )
    def test_groups_that_are_refused(self, groups, message):
        found, vae = known()
        with pytest.raises(ValueError, match=f"^{message}"):
            found.differential_expression(vae, *groups)

    def test_a_likelihood_of_ones_own_has_no_shares(self):
        found = pyro_vae.Cells.from_anndata(adata())
        vae = CellVAE(GENES, likelihood=torch.nn.Identity())
        with pytest.raises(
            TypeError, match="^vae: found the likelihood Identity, expected CellCounts, which has shares"
        ):
            found.differential_expression(vae, "A", groupby="type")


def by_quadrature(found, vae, code=None):
    """The posterior means of ρ of each cell, ``(N, G)``, on a grid of the latent."""
    z = torch.linspace(-8, 8, 2001)[:, None]
    rows = []
    for row in found.data:
        x, s = vae.layout.unpack(row[None])
        log_p = vae.likelihood(z, s.expand(2001, -1)).log_prob(x) - 0.5 * z[:, 0] ** 2
        seen = s if code is None else vae.layout.in_batch(s, code)
        rows.append(log_p.double().softmax(0) @ vae.likelihood.log_expression(z, seen.expand(2001, -1)).exp().double())
    return torch.stack(rows).detach().numpy()


class TestNormalizedExpression:
    def test_library_sizes_and_names(self):
        found, vae = cells(), program()
        frame = found.normalized_expression(vae, seed=0)
        np.testing.assert_allclose(frame.sum(1), 1e4, rtol=1e-5)
        assert frame.index.tolist() == found.adata.obs_names.tolist() and frame.columns.tolist() == list(
            found.design.genes
        )
        observed = found.normalized_expression(vae, "observed", genes=["gene4", "gene1"], seed=0)
        expected = frame[["gene4", "gene1"]].mul(found.adata.X.sum(1) / 1e4, axis=0)
        pd.testing.assert_frame_equal(observed, expected, check_dtype=False, rtol=1e-5)

    def test_all_cells_in_one_batch(self):
        found, vae = known(scale=0.001)
        frame = found.normalized_expression(vae, 1.0, batch="two", num_particles=1, seed=0)
        z = torch.where(found.data[:, :1] > 5, 1.0, -1.0)
        np.testing.assert_allclose(frame, (BASE + z * WEIGHT + BATCH[1]).softmax(-1), atol=2e-3)

    def test_what_is_refused(self):
        found, vae = cells(), program()
        with pytest.raises(ValueError, match="^batch: found 'b7', expected one of the batches, 'b0', 'b1', 'b2'"):
            found.normalized_expression(vae, batch="b7")
        with pytest.raises(ValueError, match="^genes: found 'geneX', expected names of the 6 genes"):
            found.normalized_expression(vae, genes=["geneX"])
        with pytest.raises(TypeError, match="^genes: found str, expected a list, each entry a string"):
            found.normalized_expression(vae, genes="gene1")
        with pytest.raises(
            ValueError, match="^batch: found 'b0', expected one of the batches, none, without a batch_key"
        ):
            other = pyro_vae.Cells.from_anndata(adata())
            other.normalized_expression(other.program(), batch="b0")
