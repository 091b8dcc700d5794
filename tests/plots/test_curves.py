"""Learning curves and the KL of each unit: what is drawn, read back from the figures and from their pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from pyro_vae.plots import kl_per_unit, learning_curve
from tests.support.figures import legend, records, rendered, texts


def line(axes: Axes, label: str) -> np.ndarray:
    (found,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
    return np.array(found.get_xydata())


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


def bars(axes: Axes) -> list[tuple[float, float, tuple]]:
    """Centre, height and colour of each bar, from the left."""
    found = [(bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_facecolor()) for bar in axes.patches]
    return sorted(found)


def test_kl_per_unit_falls_from_the_left_in_the_order_of_the_layers():
    figure = kl_per_unit({"z2": torch.tensor([0.5, 2.0, 1.0]), "z1": np.array([0.25, 4.0])})
    top, bottom, layers = figure.axes
    rendered(figure)
    assert layers.get_position().y0 > top.get_position().y1 and top.get_position().y0 > bottom.get_position().y1
    np.testing.assert_allclose([bar[:2] for bar in bars(layers)], [(0, 3.5), (1, 4.25)])
    assert texts(layers.get_xticklabels()) == ["z2", "z1"] and texts(layers.texts) == ["3.50", "4.25"]
    assert texts(top.get_xticklabels()) == ["1", "2", "0"] and texts(bottom.get_xticklabels()) == ["1", "0"]
    assert top.get_title() == "z2: 3.50 nats in 3 units" and bottom.get_title() == "z1: 4.25 nats in 2 units"
    np.testing.assert_allclose([bar[:2] for bar in bars(top)], [(1, 2), (2, 1), (3, 0.5)])
    np.testing.assert_allclose([bar[:2] for bar in bars(bottom)], [(1, 4), (2, 0.25)])
    assert top.get_ylabel() == "KL (nats)" and bottom.get_xlabel() == "unit, by its KL"
    assert top.get_legend() is None


def test_kl_per_unit_tells_active_units_by_colour():
    kl = {"z2": torch.tensor([3.0]), "z1": torch.tensor([0.5, 2.0, 0.1])}
    top, bottom, _ = kl_per_unit(kl, {"z1": torch.tensor([False, True, True])}).axes
    colors = [bar[2] for bar in bars(bottom)]
    assert colors[0] == colors[2] != colors[1]  # 2.0 and 0.1 are active, 0.5 between them is not
    assert legend(bottom) == ["active", "not active"]
    assert bottom.get_title() == "z1: 2.60 nats in 3 units, 2 active"
    assert bars(top)[0][2] not in colors and top.get_legend() is None
    hatched = {bar.get_x() + bar.get_width() / 2 for bar in bottom.patches if bar.get_hatch()}
    assert hatched == {2}  # and not by colour alone


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


def test_the_marked_epoch_is_the_one_whose_weights_are_kept():
    """Where the KL is weighed, that with the smallest validation loss, which need not have the largest bound."""
    records = [
        {"epoch": 1, "train_bound": -9.0, "valid_bound": -8.0, "valid_loss": 20.0},
        {"epoch": 2, "train_bound": -9.0, "valid_bound": -9.5, "valid_loss": 12.0},
    ]
    labels = [text.get_text() for text in learning_curve(records).axes[0].get_legend().get_texts()]
    assert labels[-1] == "best validation: −9.50 at epoch 2"
