"""What weights leave of the error of a guide, where a mark says so, and the Monte Carlo error of expression."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pyro_vae.cells.expression import caveat, effective_size
from tests.cells.test_differential import WEIGHT, by_quadrature, known


class TestCaveat:
    @pytest.mark.parametrize("num_particles", [10, 25, 100, 1000])
    @pytest.mark.parametrize(
        ("latent_dim", "loc", "scale"), [(1, 0.5, 1.0), (1, 1.5, 0.5), (1, 2.5, 0.5), (5, 0.7, 0.7), (10, 1.0, 0.5)]
    )
    def test_the_bias_is_small_where_no_mark_stands(self, num_particles, latent_dim, loc, scale):
        """Posteriors N(loc, scale²) of 1,000 cells under a guide N(0, 1); the bias in units of scale.

        The largest without a mark is 0.05, the least with one 0.11; their Monte Carlo error is 0.02 at most.
        """
        z = torch.randn(num_particles, 1000, latent_dim)
        log_w = (z**2 / 2 - ((z - loc) / scale) ** 2 / 2).sum(-1).log_softmax(0)
        bias = ((log_w.exp()[..., None] * z).sum(0).mean() - loc).abs() / scale
        assert (bias > 0.08) == bool(caveat(effective_size(log_w), num_particles))

    def test_fold_changes_with_a_bias_are_marked(self):
        """The guide is wide and misplaced. With K = 10 a fold change is off by some seven of its errors."""
        found, vae = known(1.0, 4 * WEIGHT)
        options = {"num_samples": 2000, "batch": "one", "seed": 0}
        with pytest.warns(UserWarning, match="^differential_expression: † the effective .* below 2 of K = 10") as told:
            few = found.differential_expression(vae, "A", "B", "type", **options)
        assert told[0].filename == __file__ and "2.9 on average" in few.attrs["caveat"] == str(told[0].message)[25:]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            many = found.differential_expression(vae, "A", "B", "type", num_particles=200, **options)
            guide = found.differential_expression(vae, "A", "B", "type", num_particles=1, **options)
        assert many.attrs["caveat"] == "" and guide.attrs["caveat"].startswith("† K = 1: the latents are from")
        exact = by_quadrature(found, vae, code=0)[found.adata.obs["type"] == "A"].mean(0)
        library = found.design.typical_library
        errors = [np.abs(frame["expression1"] / library - exact).max() for frame in (many, few, guide)]
        assert errors[0] < 0.01 < 0.02 < errors[1] < 0.1 < errors[2]
        off = (few["lfc_mean"] - many["lfc_mean"]).abs() / np.hypot(few["lfc_error"], many["lfc_error"])
        assert off.max() > 5


class TestError:
    def test_it_is_how_far_estimates_are_from_the_truth(self):
        """In 20 times 60 cells, by quadrature: a ratio has an error of 2 %, and the delta method of 5 % at K = 100."""
        found, vae = known(1.0)
        exact = by_quadrature(found, vae)
        squares = np.zeros((2, 4))
        for seed in range(20):
            mean, error = found.normalized_expression(vae, 1.0, num_particles=100, return_error=True, seed=seed)
            squares += ((mean - exact) ** 2).mean(), (error**2).mean()
        assert (np.abs(np.sqrt(squares[0] / squares[1]) - 1) < 0.12).all()

    def test_frames_have_the_same_names_and_library(self):
        found, vae = known(1.0)
        options = {"genes": ["3", "0"], "num_particles": 100, "seed": 0}
        mean, error = found.normalized_expression(vae, "observed", return_error=True, **options)
        assert mean.equals(found.normalized_expression(vae, "observed", **options))
        assert mean.index.equals(error.index) and error.columns.tolist() == ["3", "0"]
        _, of_share = found.normalized_expression(vae, 1.0, return_error=True, **options)
        np.testing.assert_allclose(error, of_share.mul(found.adata.X.sum(1), axis=0), rtol=1e-6)
        assert mean.attrs == error.attrs == {"num_particles": 100, "ess": mean.attrs["ess"], "caveat": ""}

    def test_too_few_latents_are_told(self):
        found, vae = known(1.0, 4 * WEIGHT)
        with pytest.warns(UserWarning, match="^normalized_expression: † the effective .* below 2 of K = 10") as told:
            mean, _ = found.normalized_expression(vae, num_particles=10, return_error=True, seed=0)
        assert told[0].filename == __file__ and mean.attrs["caveat"].startswith("† the effective sample size")
        mean, error = found.normalized_expression(vae, num_particles=1, return_error=True, seed=0)
        assert error.isna().all(axis=None) and not mean.isna().any(axis=None)
