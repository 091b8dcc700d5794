"""The latent space and the manifold: what is drawn where, read back from the figures and from their pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from pyro_vae.plots.latents import latent_grid, latent_space, manifold
from tests.support.figures import color_at, legend, rendered, texts


def test_latent_grid_divides_the_prior_evenly():
    z, coordinates = latent_grid(20)
    assert z.shape == (400, 2) and coordinates.shape == (20,)
    u = torch.distributions.Normal(0, 1).cdf(coordinates)
    torch.testing.assert_close(u, (torch.arange(20) + 0.5) / 20)
    for i, j in [(0, 0), (0, 19), (7, 3), (19, 0)]:
        assert z[i * 20 + j].tolist() == [coordinates[j], coordinates[i]]


def test_latent_grid_is_in_the_default_dtype(double):
    z, coordinates = latent_grid(3)
    assert z.dtype == coordinates.dtype == torch.float64
    expected = torch.tensor([-0.9674215661017010, 0.0, 0.9674215661017010])
    torch.testing.assert_close(coordinates, expected, rtol=1e-14, atol=1e-15)


def test_latent_grid_refuses_no_rows():
    with pytest.raises(ValueError, match="num_rows: found 0, expected at least 1"):
        latent_grid(0)


def test_manifold_has_z1_to_the_right_and_z2_upwards():
    z, coordinates = latent_grid(4)
    brightness = (0.5 + 0.15 * z[:, 0] + 0.1 * z[:, 1]).clamp(0, 1)  # any two tiles differ, by z1 and by z2
    figure = manifold(brightness.reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6), coordinates)
    for i in range(4):
        for j in range(4):
            expected = 0.5 + 0.15 * coordinates[j] + 0.1 * coordinates[i]
            assert color_at(figure, j + 0.5, i + 0.5)[0] == pytest.approx(expected.item(), abs=0.005)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    for ticks, labels in ((axes.get_xticks(), axes.get_xticklabels()), (axes.get_yticks(), axes.get_yticklabels())):
        assert ticks.tolist() == [0.5, 1.5, 2.5, 3.5]
        assert texts(labels) == ["−1.15", "−0.32", "0.32", "1.15"]


def test_the_images_of_a_manifold_stay_upright():
    image = torch.zeros(10, 6)
    image[:5, :3] = 1  # the upper left quarter
    figure = manifold(image.expand(9, 10, 6), latent_grid(3)[1])
    quarters = [color_at(figure, 1 + x, 1 + y)[0] for x, y in ((0.25, 0.75), (0.75, 0.75), (0.25, 0.25), (0.75, 0.25))]
    assert quarters == [1, 0, 0, 0]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 8, 20, 21])
@pytest.mark.parametrize("shape", [(28, 28), (28, 8), (3, 8, 28)])
def test_tick_labels_of_a_manifold_are_symmetric_and_apart(num_rows, shape):
    coordinates = latent_grid(num_rows)[1]
    figure = manifold(np.zeros((num_rows**2, *shape), dtype=np.float32), coordinates)
    rendered(figure, dpi=50)
    for axis, side in ((figure.axes[0].xaxis, "x"), (figure.axes[0].yaxis, "y")):
        ticks = np.array(axis.get_ticklocs())
        assert 1 <= len(ticks) <= 7
        assert {0.5, num_rows - 0.5} == {ticks[0], ticks[-1]}
        np.testing.assert_array_equal(ticks + ticks[::-1], num_rows)
        shown = [f"{coordinates[int(tick)]:.2f}".replace("-", "−") for tick in ticks]
        assert texts(axis.get_ticklabels()) == shown
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        if num_rows > 3:  # with fewer, both ends are shown however narrow the picture
            ends = [(getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes]
            assert all(right < left for (_, right), (left, _) in itertools.pairwise(ends))


def test_a_middle_that_is_not_quite_zero_has_no_sign():
    labels = manifold(np.zeros((9, 8, 8)), np.array([-1.0, -1e-9, 1.0])).axes[0].get_xticklabels()
    assert texts(labels) == ["−1.00", "0.00", "1.00"]


@pytest.mark.parametrize(
    ("images", "coordinates", "message"),
    [
        (torch.rand(9, 8, 8), torch.rand(4), "images: found 9, expected 16, one for each pair of 4 coordinates"),
        (torch.rand(9, 64), torch.rand(3), r"images: found shape \(9, 64\), expected images"),
        (torch.rand(9, 8, 8), torch.rand(9, 2), r"coordinates: found shape \(9, 2\), expected \(R,\)"),
        (torch.rand(9, 8, 8), torch.rand(0), r"coordinates: found shape \(0,\), expected \(R,\)"),
        (torch.rand(1, 8, 8), torch.tensor([torch.nan]), "coordinates: found 1 of 1 values not finite"),
    ],
)
def test_manifold_refuses(images, coordinates, message):
    with pytest.raises(ValueError, match=message):
        manifold(images, coordinates)


def test_latent_space_draws_each_point_in_the_colour_of_its_class():
    z, labels = torch.randn(50, 2), torch.arange(50) % 3 * 5  # classes 0, 5 and 10
    (axes,) = latent_space(z, labels).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert (axes.get_aspect(), axes.get_adjustable()) == (1, "datalim")  # equal scales, in a figure that is filled
    assert legend(axes) == ["0", "5", "10"]
    (points,) = axes.collections
    np.testing.assert_array_equal(points.get_offsets(), z.numpy())
    expected = [to_rgba(axes.get_legend().legend_handles[label // 5].get_color()) for label in labels.tolist()]
    np.testing.assert_array_equal(points.get_facecolors(), expected)


def test_twenty_classes_look_different_from_each_other():
    labels = np.arange(200) % 20
    figure = latent_space(np.random.default_rng(0).normal(size=(200, 2)), labels)
    (axes,) = figure.axes
    handles = axes.get_legend().legend_handles
    assert len({(handle.get_color(), handle.get_marker()) for handle in handles}) == 20
    assert len({handle.get_marker() for handle in handles[:10]}) == 10  # so that ten are told apart without colour
    (points,) = axes.collections
    shapes = [path.vertices.tobytes() for path in points.get_paths()]
    assert len(shapes) == 200 and all(shapes[i] == shapes[i + 20] for i in range(180))
    assert len(set(shapes[:10])) == len(set(shapes[10:20])) == 10 and shapes[0] != shapes[10]
    rendered(figure)
    box = axes.get_legend().get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0
    assert not box.overlaps(axes.get_window_extent())  # no point hides behind it


@pytest.mark.parametrize("labels", [np.arange(21), np.linspace(0, 1, 21)])
def test_many_classes_and_real_labels_are_a_scale(labels):
    axes, colorbar = latent_space(np.ones((21, 2)), labels).axes
    assert axes.get_legend() is None
    np.testing.assert_array_equal(axes.collections[0].get_array(), labels)
    assert colorbar.get_ylabel() == "label"


def test_latent_space_without_labels():
    (axes,) = latent_space(torch.randn(10, 2)).axes
    assert axes.get_legend() is None
    assert len(axes.collections[0].get_offsets()) == 10


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        (torch.rand(5, 3, 2), None, r"z: found shape \(5, 3, 2\), expected \(N, D\)"),
        (torch.rand(5), None, r"z: found shape \(5,\), expected \(N, D\)"),
        (torch.rand(5, 0), None, r"z: found shape \(5, 0\), expected \(N, D\) with N and D at least 1"),
        (torch.rand(0, 2), None, r"z: found shape \(0, 2\), expected \(N, D\) with N and D at least 1"),
        (torch.full((5, 2), torch.inf), None, "z: found 10 of 10 values not finite"),
        (torch.rand(5, 2), torch.arange(4), r"labels: found shape \(4,\), expected \(5,\)"),
        (torch.rand(5, 2), torch.rand(5, 1), r"labels: found shape \(5, 1\), expected \(5,\)"),
        (torch.rand(5, 2), np.array(list("abcde")), "labels: found dtype <U1, expected real numbers"),
    ],
)
def test_latent_space_refuses(z, labels, message):
    with pytest.raises(ValueError, match=message):
        latent_space(z, labels)


def test_of_many_units_the_two_most_active_are_drawn():
    scales = torch.tensor([0.1, 3.0, 0.2, 1.0, 0.0])
    z = torch.randn(200, 5) * scales + 7
    (axes,) = latent_space(z, torch.arange(200) % 2, classes=["cat", "dog"]).axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), z[:, [1, 3]])
    assert axes.get_xlabel().startswith("z[1], the most active of 5 units (variance ")
    assert axes.get_ylabel().startswith("z[3], the second most active (variance ")
    assert legend(axes) == ["cat", "dog"] == texts(axes.texts)
    np.testing.assert_allclose(axes.texts[0].get_position(), np.median(z[::2, [1, 3]], axis=0), rtol=1e-6)


def test_principal_components_are_those_of_the_singular_values():
    z = torch.randn(100, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    (axes,) = latent_space(z, projection="pca").axes
    points = np.asarray(axes.collections[0].get_offsets())
    _, singular, _ = torch.linalg.svd(z - z.mean(0))
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), singular[:2], rtol=1e-10)
    assert abs(points[:, 0] @ points[:, 1]) < 1e-8
    share = singular.square() / singular.square().sum()
    assert axes.get_xlabel() == f"first principal component of 4 units ({share[0]:.0%} of the variance)"


def test_a_single_unit_is_drawn_against_its_ranks():
    (axes,) = latent_space(np.array([[3.0], [1.0], [2.0]])).axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[3, 2.5 / 3], [1, 0.5 / 3], [2, 1.5 / 3]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "share of the data below")
