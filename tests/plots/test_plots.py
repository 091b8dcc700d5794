"""Pictures: what is drawn where, read back from the figures and from their pixels."""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from pyro_vae.plots.curves import kl_per_unit, learning_curve
from pyro_vae.plots.images import layers, reconstructions, samples
from pyro_vae.plots.latents import latent_grid, latent_space, manifold


def rendered(figure: Figure, dpi: float = 150) -> np.ndarray:
    """The picture as a reader sees it: ``(rows, columns, 3)``, 0 to 1."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def color_at(figure: Figure, x: float, y: float) -> list[float]:
    """The colour of the rendered picture at ``(x, y)`` in the data coordinates of its first axes."""
    pixels = rendered(figure)
    column, row_from_bottom = figure.axes[0].transData.transform((x, y))
    return pixels[int(len(pixels) - row_from_bottom), int(column)].tolist()


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def legend(axes: Axes) -> list[str]:
    return texts(axes.get_legend().get_texts())


def line(axes: Axes, label: str) -> np.ndarray:
    (found,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
    return np.array(found.get_xydata())


def records(train, valid=None) -> list[dict]:
    return [
        {"epoch": i + 1, "train_bound": t, "valid_bound": valid and valid[i], "learning_rate": 1e-3, "seconds": 1.0}
        for i, t in enumerate(train)
    ]


def test_learning_curve_draws_both_bounds_and_marks_the_best():
    (axes,) = learning_curve(records([-120.0, -100.0, -95.0, -94.0], [-118.0, -101.0, -99.0, -103.0])).axes
    assert axes.get_xlabel() == "epoch"
    assert axes.get_ylabel() == "bound (nats per datum)"
    assert legend(axes) == ["training", "validation", "best validation: −99.00 at epoch 3"]
    assert line(axes, "training").tolist() == [[1, -120], [2, -100], [3, -95], [4, -94]]
    assert line(axes, "validation").tolist() == [[1, -118], [2, -101], [3, -99], [4, -103]]
    assert line(axes, "best").tolist() == [[3, -99]]


@pytest.mark.parametrize("first", [-540.0, -1e9])
def test_an_awful_first_epoch_does_not_flatten_the_curve(first):
    train = [first] + [-90 - 30 / epoch for epoch in range(2, 51)]
    (axes,) = learning_curve(records(train, [bound - 1 for bound in train])).axes
    low, high = axes.get_ylim()
    assert -105 < low < train[10] - 1  # what is shown is some ten nats high, not hundreds
    assert max(train) < high < -85


@pytest.mark.parametrize("last", [-110.0, -4000.0])
def test_the_last_epoch_is_in_the_picture_however_bad(last):
    train = [-540.0] + [-95.0] * 30
    (axes,) = learning_curve(records(train, [-540.0] + [-97.0] * 29 + [last])).axes
    assert -540 < axes.get_ylim()[0] < last if last == -110 else axes.get_ylim()[0] < last


def test_a_single_spike_late_in_the_run_does_not_flatten_the_curve():
    (axes,) = learning_curve(records([-95.0] * 10 + [-1e6] + [-94.0] * 10)).axes
    assert -96 < axes.get_ylim()[0] < -95


@pytest.mark.parametrize("valid", [None, [-209.0]])
def test_learning_curve_of_one_epoch(valid):
    figure = learning_curve(records([-208.0], valid))
    (axes,) = figure.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < 1 < right
    assert low < -209 < -208 < high if valid else low < -208 < high
    axes.get_legend().remove()  # its sample of the line has the same colour
    blue = np.array(to_rgba("#3f90da")[:3])
    assert (np.abs(rendered(figure) - blue).max(-1) < 0.02).sum() > 10  # pixels: a line has none
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_learning_curve_without_validation():
    (axes,) = learning_curve([{"epoch": epoch, "train_bound": -100.0 + epoch} for epoch in range(5)]).axes
    assert legend(axes) == ["training"]


def test_validation_every_third_epoch_is_one_line():
    valid = [-float(i) if i % 3 == 0 else None for i in range(9)]
    (axes,) = learning_curve(records([-1.0] * 9, valid)).axes
    assert line(axes, "validation").tolist() == [[1, 0], [4, -3], [7, -6]]


def test_a_bound_that_is_not_finite_is_a_gap():
    figure = learning_curve(records([-9.0, math.nan, -7.0, -math.inf], [-9.0, -8.0, math.nan, math.nan]))
    (axes,) = figure.axes
    assert np.isnan(line(axes, "training")[1, 1])
    assert line(axes, "best").tolist() == [[2, -8]]
    low, high = axes.get_ylim()
    assert -10 < low < -9 < -7 < high < -6
    rendered(figure)


def test_the_entropy_floor_is_a_ceiling_of_the_bound():
    (axes,) = learning_curve(records([-90.0, -80.0]), entropy_floor=45.53).axes
    assert line(axes, "ceiling")[:, 1].tolist() == [-45.53, -45.53]
    assert legend(axes)[-1] == "ceiling (entropy floor): −45.53"
    assert axes.get_ylim()[1] > -45.53


def test_large_bounds_are_printed_in_full():
    figure = learning_curve(records([-123456.70, -123456.65, -123456.60]))
    rendered(figure)
    (axes,) = figure.axes
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert any(text.startswith("−123456.") for text in texts(axes.get_yticklabels()))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "records: found none"),
        ([{"epoch": 1, "valid_bound": -1.0}], r"records\[0\]: found .*valid_bound.*a number under train_bound"),
        ([{}], r"records\[0\]: found {}, expected a number under epoch and train_bound"),
        ([*records([-1.0]), {"epoch": 2, "train_bound": None}], r"records\[1\]: .* under train_bound"),
        (records([math.nan, -math.inf]), "found no finite bound in 2 epochs"),
    ],
)
def test_learning_curve_refuses(found, message):
    with pytest.raises(ValueError, match=message):
        learning_curve(found)


@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 4)])
def test_reconstructions_put_data_over_reconstructions(shape):
    x, x_hat = torch.rand(12, *shape), torch.rand(12, *shape)
    (axes,) = reconstructions(x, x_hat, num_pairs=3).axes
    expected = torch.cat([torch.cat(list(row[:3].reshape(3, 6, 4)), dim=1) for row in (x, x_hat)])  # (2 * 6, 3 * 4)
    np.testing.assert_array_equal(axes.images[0].get_array(), expected.numpy())
    assert dict(zip(texts(axes.get_yticklabels()), axes.get_yticks(), strict=True)) == {
        "data": 1.5,
        "reconstruction": 0.5,
    }
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 3), (0, 2))


def test_colours_reach_the_picture():
    x, x_hat = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    x[0, 0], x[1, 1], x_hat[0, 2] = 1, 1, 1
    figure = reconstructions(x, x_hat)
    assert color_at(figure, 0.5, 1.5) == [1, 0, 0]
    assert color_at(figure, 1.5, 1.5) == [0, 1, 0]
    assert color_at(figure, 0.5, 0.5) == [0, 0, 1]


def test_colours_are_clipped_without_a_word(caplog):
    figure = samples(torch.tensor([-0.5, 0.5, 1.5]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8))
    np.testing.assert_allclose(color_at(figure, 0.5, 0.5), [0, 0.5, 1], atol=0.005)
    assert not caplog.records  # matplotlib logs what it clips itself


def test_fewer_data_than_pairs():
    assert reconstructions(np.zeros((4, 8, 8)), np.zeros((4, 8, 8))).axes[0].images[0].get_array().shape == (16, 32)


def test_gray_goes_from_0_to_1_whatever_the_data():
    figure = samples(np.stack([np.full((8, 8), value) for value in (-0.5, 0.4, 0.5, 1.5)]))
    shown = [color_at(figure, column + 0.5, 0.5) for column in range(4)]
    np.testing.assert_allclose(shown, np.array([[0.0], [0.4], [0.5], [1.0]]).repeat(3, 1), atol=0.005)


@pytest.mark.parametrize(("number", "num_rows", "num_columns"), [(1, 1, 1), (3, 1, 3), (4, 1, 4), (5, 2, 4), (9, 3, 4)])
def test_samples_fill_rows_from_the_top_left(number, num_rows, num_columns):
    x = torch.arange(number).reshape(-1, 1, 1).expand(number, 5, 3) / 100
    (axes,) = samples(x, num_columns=4).axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, num_columns), (0, num_rows))
    tiles = axes.images[0].get_array()[::5, ::3].ravel()
    np.testing.assert_allclose(tiles[:number], np.arange(number) / 100, atol=1e-6)
    assert (tiles[number:] == 1).all()  # white as the page


def test_samples_are_parted_by_hairlines():
    figure = samples(np.zeros((4, 28, 28)), num_columns=2)
    row = rendered(figure)[:, :, 0]
    middle = row[len(row) // 4]  # across the two upper tiles
    inside = middle[10:-10]
    assert inside.max() > 0.8
    assert 1 <= (inside > 0.2).sum() <= 2  # pixels, at 150 dpi
    assert color_at(figure, 0.5, 0.5) == [0, 0, 0]


@pytest.mark.parametrize("shape", [(28, 28), (3, 32, 20), (8, 64)])
def test_pixels_are_square_and_fill_the_figure(shape):
    figure = samples(np.zeros((30, *shape)))
    rendered(figure)
    (axes,) = figure.axes
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx(10 * shape[-1] / (3 * shape[-2]))
    assert figure.bbox.width - box.width == pytest.approx(0.1 * 150)  # a twentieth of an inch on each side
    assert figure.bbox.height - box.height == pytest.approx(0.1 * 150)


def test_a_thousand_images_stay_on_a_page():
    width, height = samples(np.zeros((1000, 8, 8), dtype=np.float32)).get_size_inches()
    assert width < 8 and height < 11


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(5, 7), r"x: found shape \(5, 7\), expected images \(N, H, W\), \(N, 1, H, W\) or \(N, 3, H, W\)"),
        (torch.rand(5), r"x: found shape \(5,\)"),
        (torch.rand(5, 2, 8, 8), r"x: found shape \(5, 2, 8, 8\)"),
        (torch.rand(5, 8, 8, 3), r"x: found shape \(5, 8, 8, 3\)"),
        (torch.rand(0, 8, 8), r"x: found shape \(0, 8, 8\)"),
        (torch.full((2, 8, 8), torch.nan), "x: found 128 of 128 values not finite"),
        (torch.full((2, 8, 8), 255, dtype=torch.uint8), "x: found integers up to 255, expected values in"),
        (torch.zeros(2, 8, 8, dtype=torch.complex64), "x: found dtype complex64, expected real numbers"),
    ],
)
def test_images_that_are_none_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        samples(x)
    with pytest.raises(ValueError, match=message):
        reconstructions(x, x)


def test_reconstructions_refuse():
    x = torch.rand(5, 1, 8, 8)
    with pytest.raises(ValueError, match=r"x_hat: found shape \(5, 8, 8\), expected that of x, \(5, 1, 8, 8\)"):
        reconstructions(x, x[:, 0])
    with pytest.raises(ValueError, match="x_hat: found 64 of 320 values not finite"):
        reconstructions(x, torch.where(torch.arange(5).reshape(-1, 1, 1, 1) == 2, torch.inf, x))
    with pytest.raises(ValueError, match="num_pairs: found 0, expected at least 1"):
        reconstructions(x, x, num_pairs=0)


def test_samples_refuse_no_columns():
    with pytest.raises(ValueError, match="num_columns: found -1, expected at least 1"):
        samples(torch.rand(5, 8, 8), num_columns=-1)


def test_layers_are_rows_from_the_top_with_their_names_beside_them():
    rows = {f"z{t}": torch.full((5, 8, 6), t / 4) for t in (1, 2, 3)}
    figure = layers(rows)
    (axes,) = figure.axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 5), (0, 3))
    for t, tick, label in zip((1, 2, 3), axes.get_yticks(), axes.get_yticklabels(), strict=True):
        assert label.get_text() == f"z{t}"
        np.testing.assert_allclose(color_at(figure, 2.5, tick), [t / 4] * 3, atol=0.005)


def test_layers_of_one_row_of_one_colour_image():
    image = torch.tensor([0.2, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    figure = layers({"x": image})
    assert texts(figure.axes[0].get_yticklabels()) == ["x"]
    np.testing.assert_allclose(color_at(figure, 0.5, 0.5), [0.2, 0.5, 1.0], atol=0.005)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "rows: found no row, expected one or more$"),
        (
            {"z1": torch.rand(5, 8, 8), "z2": torch.rand(4, 8, 8)},
            r"rows: found the shapes {'z1': \(5, 8, 8, 1\), 'z2': \(4, 8, 8, 1\)}, expected the same for each$",
        ),
        ({"z1": torch.rand(5, 8, 8), "z2": torch.rand(5, 3, 8, 8)}, "rows: found the shapes {'z1': .*, 'z2': "),
        ({"z1": torch.rand(5, 8, 8), "z2": torch.rand(5, 7)}, r"rows\['z2'\]: found shape \(5, 7\), expected images"),
        ({"z1": torch.full((2, 8, 8), torch.nan)}, r"rows\['z1'\]: found 128 of 128 values not finite"),
    ],
)
def test_layers_refuse(rows, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        layers(rows)


def test_binary_images_of_any_dtype():
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64):
        (axes,) = samples(torch.eye(4).to(dtype).expand(2, 4, 4)).axes
        np.testing.assert_array_equal(axes.images[0].get_array(), np.tile(np.eye(4), (1, 2)))


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
    assert [len(points.get_offsets()) for points in axes.collections] == [100, 100]  # disks, and triangles
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
        (torch.rand(5, 3), None, r"z: found shape \(5, 3\), expected \(N, 2\)"),
        (torch.rand(5), None, r"z: found shape \(5,\), expected \(N, 2\)"),
        (torch.rand(0, 2), None, r"z: found shape \(0, 2\), expected \(N, 2\) with N at least 1"),
        (torch.full((5, 2), torch.inf), None, "z: found 10 of 10 values not finite"),
        (torch.rand(5, 2), torch.arange(4), r"labels: found shape \(4,\), expected \(5,\)"),
        (torch.rand(5, 2), torch.rand(5, 1), r"labels: found shape \(5, 1\), expected \(5,\)"),
        (torch.rand(5, 2), np.array(list("abcde")), "labels: found dtype <U1, expected real numbers"),
    ],
)
def test_latent_space_refuses(z, labels, message):
    with pytest.raises(ValueError, match=message):
        latent_space(z, labels)


def bars(axes: Axes) -> list[tuple[float, float, tuple]]:
    """Centre, height and colour of each bar, from the left."""
    found = [(bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_facecolor()) for bar in axes.patches]
    return sorted(found)


def test_kl_per_unit_falls_from_the_left_in_the_order_of_the_layers():
    figure = kl_per_unit({"z2": torch.tensor([0.5, 2.0, 1.0]), "z1": np.array([0.25, 4.0])})
    top, bottom = figure.axes
    rendered(figure)
    assert top.get_position().y0 > bottom.get_position().y1
    assert top.get_title() == "z2: 3.50 nats in 3 units" and bottom.get_title() == "z1: 4.25 nats in 2 units"
    np.testing.assert_allclose([bar[:2] for bar in bars(top)], [(1, 2), (2, 1), (3, 0.5)])
    np.testing.assert_allclose([bar[:2] for bar in bars(bottom)], [(1, 4), (2, 0.25)])
    assert top.get_ylabel() == "KL (nats)" and bottom.get_xlabel() == "unit, by its KL"
    assert top.get_legend() is None


def test_kl_per_unit_tells_active_units_by_colour():
    kl = {"z2": torch.tensor([3.0]), "z1": torch.tensor([0.5, 2.0, 0.1])}
    top, bottom = kl_per_unit(kl, {"z1": torch.tensor([False, True, True])}).axes
    colors = [bar[2] for bar in bars(bottom)]
    assert colors[0] == colors[2] != colors[1]  # 2.0 and 0.1 are active, 0.5 between them is not
    assert legend(bottom) == ["active", "not active"]
    assert bottom.get_title() == "z1: 2.60 nats in 3 units, 2 active"
    assert bars(top)[0][2] not in colors and top.get_legend() is None


@pytest.mark.parametrize("num_units", [1, 10, 50, 500])
def test_kl_per_unit_of_few_and_many(num_units):
    kl = torch.linspace(1, 2, num_units)
    figure = kl_per_unit({"z": kl}, {"z": kl < 3})
    (axes,) = figure.axes
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert low < 1 and num_units < high and bottom <= 0 and top > kl.max()
    heights = [bar[1] for bar in bars(axes)]
    np.testing.assert_allclose(heights, kl.flip(0))
    assert legend(axes) == ["active"]
    ticks = [tick for tick in axes.get_xticks() if low < tick < high]
    assert all(tick in range(num_units + 1) for tick in ticks)
    ink = (np.abs(rendered(figure) - np.array(to_rgba("#3f90da")[:3])).max(-1) < 0.1).mean()
    assert ink > 0.05  # bars are seen, not hairlines between their gaps


def test_a_kl_below_zero_by_its_noise_is_drawn_below_zero():
    (axes,) = kl_per_unit({"z": torch.tensor([-0.1, 0.5])}).axes
    assert axes.get_ylim()[0] < -0.1 and bars(axes)[1][1] == pytest.approx(-0.1)


@pytest.mark.parametrize(
    "kl, active, message",
    [
        ({}, None, "kl: found no site"),
        ({"z": torch.rand(2, 3)}, None, r"kl\['z'\]: found shape \(2, 3\), expected \(D,\)"),
        ({"z": torch.rand(0)}, None, r"kl\['z'\]: found shape \(0,\), expected \(D,\) with D at least 1"),
        ({"z": torch.tensor([1.0, math.nan])}, None, r"kl\['z'\]: found 1 of 2 values not finite"),
        ({"z": torch.rand(3)}, {"z": [True]}, r"active\['z'\]: found shape \(1,\), expected that of kl, \(3,\)"),
        ({"z": torch.rand(3)}, {"y": [True]}, r"active: found the sites \['y'\]"),
    ],
)
def test_kl_per_unit_refuses(kl, active, message):
    with pytest.raises(ValueError, match=message):
        kl_per_unit(kl, active)


def every_figure(device: torch.device | None = None) -> dict[str, Figure]:
    x = torch.rand(16, 1, 8, 8, device=device, requires_grad=True)
    return {
        "learning_curve": learning_curve(records([-9.0, -8.0], [-9.0, -8.5]), entropy_floor=4.0),
        "reconstructions": reconstructions(x, x / 2, num_pairs=1),
        "samples": samples(x),
        "layers": layers({f"z{t}": x for t in range(1, 13)}),
        "manifold": manifold(x, latent_grid(4)[1].to(x.device)),
        "latent_space": latent_space(x[:, 0, 0, :2], torch.arange(16, device=device) % 10),
        "kl_per_unit": kl_per_unit({"z2": x[0, 0, 0], "z1": x.flatten()}, {"z1": x.flatten() > 0.1}),
    }


def test_every_figure_is_saved_with_all_its_words(device, tmp_path):
    for name, figure in every_figure(device).items():
        figure.savefig(tmp_path / f"{name}.png", dpi=150)
        header = (tmp_path / f"{name}.png").read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        np.testing.assert_allclose(struct.unpack(">II", header[16:]), figure.get_size_inches() * 150, atol=1)
        rendered(figure)
        inside, page = figure.get_tightbbox(), figure.get_size_inches()  # of everything drawn, in inches
        assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= page[0] and inside.y1 <= page[1], name


def test_global_state_of_matplotlib_is_left_alone():
    from matplotlib import pyplot

    figures = pyplot.get_fignums()
    settings = {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}  # chosen when read
    every_figure()
    assert settings == {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}
    assert pyplot.get_fignums() == figures


def test_nothing_of_the_package_nor_pyplot_is_imported_and_no_backend_is_chosen():
    # The folder alone, in a package that is empty: importing the whole would bring in what other modules need.
    from pyro_vae import plots

    program = f"""
import matplotlib, sys, torch, types
backend = matplotlib.get_backend(auto_select=False)
sys.modules["pyro_vae"] = package = types.ModuleType("pyro_vae")
package.__path__ = [{str(Path(plots.__file__).parents[1])!r}]
from pyro_vae import plots
plots.samples(torch.zeros(3, 8, 8)).canvas.draw()
print(matplotlib.get_backend(auto_select=False) == backend)
others = [name for name in sys.modules if name.split(".")[0] in ("pyro_vae", "pyro") and ".plots" not in name]
print([name for name in [*others, "matplotlib.pyplot"] if name in sys.modules and name != "pyro_vae"])
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n[]\n"


def test_the_marked_epoch_is_the_one_whose_weights_are_kept():
    """Where the KL is weighed, that with the smallest validation loss, which need not have the largest bound."""
    records = [
        {"epoch": 1, "train_bound": -9.0, "valid_bound": -8.0, "valid_loss": 20.0},
        {"epoch": 2, "train_bound": -9.0, "valid_bound": -9.5, "valid_loss": 12.0},
    ]
    labels = [text.get_text() for text in learning_curve(records).axes[0].get_legend().get_texts()]
    assert labels[-1] == "best validation: −9.50 at epoch 2"
