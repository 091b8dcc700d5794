"""Rows and grids of images: what is drawn where, read back from the figures and from their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae.plots.images import layers, reconstructions, samples
from tests.support.figures import color_at, rendered, texts


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
