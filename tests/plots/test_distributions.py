"""Distributions of values and intervals of figures: what is drawn, from arrays, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_vae import plots
from tests.support.figures import legend, rendered, texts


def test_khat_is_drawn_with_what_is_not_to_be_trusted_apart():
    khat = torch.tensor([0.1, 0.9, math.nan, math.inf, 0.69])
    _, beside = plots.log_likelihoods(torch.arange(5.0), khat).axes
    trusted, heavy = (points.get_offsets().tolist() for points in beside.collections)
    np.testing.assert_allclose(trusted, [[0.1, 0], [0.69, 4]], atol=1e-7)
    np.testing.assert_allclose(heavy, [[0.9, 1], [1.1, 3]], atol=1e-7)
    assert beside.get_title() == "k̂ > 0.7: 2 of 5 data; not known: 1"
    shapes = [points.get_paths()[0].vertices.tolist() for points in beside.collections]
    assert shapes[0] != shapes[1]  # not by colour alone


def test_without_khat_there_is_one_panel():
    (axes,) = plots.log_likelihoods(np.array([-3.0, -1.0])).axes
    assert legend(axes) == ["mean: −2.00"] and axes.get_xlabel() == "log p(x) (nats)"


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 1.0], [-2.0], [-1e-9, 1e9], [-5.0, 0.0, 3.0]])
def test_differences_left_of_zero_are_hatched(values):
    figure = plots.differences(np.array(values))
    rendered(figure, dpi=40)
    bars = figure.axes[0].patches
    left = [bar for bar in bars if bar.get_hatch() and bar.get_height()]
    assert sum(bar.get_height() for bar in left) == sum(value < 0 for value in values)
    assert sum(bar.get_height() for bar in bars) == len(values)
    assert all(bar.get_x() + bar.get_width() <= 1e-9 for bar in left)


def test_estimates_have_a_thick_and_a_thin_bar():
    (axes,) = plots.estimates({"ELBO": (-25.0, 0.5, 2.0), "log p": (-24.0, math.nan, 1.0)}).axes
    thin, thick = (container.lines[2][0].get_segments() for container in axes.containers)
    np.testing.assert_allclose(thin, [[[-27, 0], [-23, 0]], [[-25, 1], [-23, 1]]])
    np.testing.assert_allclose(thick, [[[-25.5, 0], [-24.5, 0]], [[-24, 1], [-24, 1]]])
    assert texts(axes.get_yticklabels()) == ["ELBO", "log p"] and legend(axes) == ["± over data", "± Monte Carlo"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.scores(torch.ones(2, 2)), ValueError, r"values: found shape \(2, 2\), expected \(N,\)"),
        (lambda: plots.differences(torch.ones(0)), ValueError, r"values: found shape \(0,\), expected \(N,\)"),
        (lambda: plots.log_likelihoods([1.0], [0.1, 0.2]), ValueError, r"khat: found shape \(2,\), expected \(1,\)"),
        (lambda: plots.log_likelihoods([math.inf]), ValueError, "values: found 1 of 1 values not finite"),
        (lambda: plots.estimates(3), TypeError, "rows: found int, expected an evaluation, or a mapping"),
        (lambda: plots.estimates({}), ValueError, "rows: found none, expected one or more"),
        (lambda: plots.estimates({"a": (math.nan, 1, 1)}), ValueError, "rows: found 1 of 1 values not finite"),
        (lambda: plots.sandwich([1.0]), ValueError, "upper: found None, expected the upper bounds"),
        (lambda: plots.sandwich([1.0], [2.0], [1.0, 2.0]), ValueError, "lower: found shapes .*expected"),
        (lambda: plots.latent_space(torch.rand(4, 3), projection="tsne"), ValueError, "projection: found 'tsne'"),
        (
            lambda: plots.latent_space(torch.rand(2, 2), np.array([0, 2]), classes=["a", "b"]),
            ValueError,
            r"classes: found 2, expected a name for each of the labels \[0, 2\]",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
