"""Frames of pandas and polars: columns of numbers become an array, all others are refused by their names."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data.frames import numbers_of
from pyro_vae.data.loading import load

COLUMNS = {
    "height": np.linspace(1.5, 2.0, 20),
    "children": np.arange(20) % 3,
    "smokes": np.arange(20) % 2 == 0,
    "weight": np.linspace(60, 90, 20, dtype=np.float32),
}
CITY = [["Rome", "Oslo", "Lima"][index % 3] for index in range(20)]


@pytest.fixture(params=["pandas", "polars"])
def library(request):
    return pytest.importorskip(request.param)


def test_columns_of_numbers_are_the_array(library):
    splits, expected = load(library.DataFrame(COLUMNS)), load(np.stack([*COLUMNS.values()], 1).astype(float))
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(splits, part).values, getattr(expected, part).values)
    assert (splits.data_shape, splits.name) == ((4,), "array")


def test_all_columns_in_float32_stay_so(library):
    frame = library.DataFrame({"a": COLUMNS["weight"], "b": COLUMNS["weight"]})
    assert numbers_of(frame).dtype == np.float32


def test_types_of_the_library_that_allow_for_missing_entries():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS).convert_dtypes()  # Int64, boolean, Float64
    assert load(frame).train.values.dtype == torch.float64
    frame.loc[3, "children"] = pandas.NA
    with pytest.raises(ValueError, match=r"^data: found missing entries in columns, 'children' \(1\) of 20 rows"):
        load(frame)


def test_decimals_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"price": [1.25, 2.5]}).cast(polars.Decimal(6, 2))
    assert numbers_of(frame).tolist() == [[1.25], [2.5]]


def test_a_column_of_labels(library):
    for extra in (CITY, library.Series(CITY)):
        splits = load(library.DataFrame({**COLUMNS, "city": extra}), labels="city")
        assert (splits.data_shape, splits.classes) == ((4,), ("Lima", "Oslo", "Rome"))
        expected = load(np.zeros((20, 1)), labels=np.array([["Lima", "Oslo", "Rome"].index(city) for city in CITY]))
        assert torch.equal(splits.train.labels, expected.train.labels)
    splits = load(library.DataFrame(COLUMNS), labels="children")
    assert (splits.data_shape, splits.classes) == ((3,), None)
    with pytest.raises(
        ValueError, match=r"^labels: found 'town', expected one of the columns 'height', 'children', 's"
    ):
        load(library.DataFrame(COLUMNS), labels="town")
    with pytest.raises(
        ValueError, match=r"^labels: found 1 missing of 20, the first at index 19, expected one a datum"
    ):
        load(library.DataFrame({**COLUMNS, "city": [*CITY[:-1], None]}), labels="city")


def test_categories_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({**COLUMNS, "city": pandas.Categorical(CITY)})
    assert load(frame, labels="city").classes == ("Lima", "Oslo", "Rome")
    with pytest.raises(
        TypeError, match=r"^data: found columns that hold no numbers, 'city' \(category\), expected num"
    ):
        load(frame)


def test_what_is_refused_says_what_to_do(library):
    with pytest.raises(TypeError, match=r"^data: found columns .*'city' \(.*\), 'day' \(.*pyro_vae.Table.from_frame"):
        load(library.DataFrame({**COLUMNS, "city": CITY, "day": np.array(["2020-01-01"] * 20, "M8[ns]")}))
    heights = [float("nan"), *COLUMNS["height"][1:]]
    message = (
        r"^data: found missing entries in columns, 'height' \(1\), 'ill' \(1\) of 20 rows, expected none; "
        r"pyro_vae.Table.from_frame\(frame\) .* pyro_vae.pack\(frame.to_numpy\(\)\) .* pyro_vae.observed_only$"
    )
    with pytest.raises(ValueError, match=message):
        load(library.DataFrame({**COLUMNS, "height": heights, "ill": [None, *([1.0] * 19)]}))
    with pytest.raises(ValueError, match="^data: found infinite numbers in the columns 'height', expected finite"):
        load(library.DataFrame({**COLUMNS, "height": [np.inf, *COLUMNS["height"][1:]]}))
    with pytest.raises(ValueError, match="^data: found a frame of 0 rows without columns, expected one column or more"):
        load(library.DataFrame())


def test_functions_of_arrays_name_the_way(library):
    vae, frame = pyro_vae.VAE((4,), 2, (3,)), library.DataFrame(COLUMNS)
    with pytest.raises(TypeError, match=r"^data: found .*DataFrame, .*; pyro_vae.data.load\(x\) takes columns of numb"):
        pyro_vae.fit(vae.model, vae.guide, frame)
    with pytest.raises(
        TypeError, match=r"^x: found .*; pyro_vae.data.load\(x\) takes columns of numbers, pyro_vae.Tab"
    ):
        pyro_vae.log_weights(vae.model, vae.guide, frame)


def test_what_becomes_a_frame(library):
    with pytest.raises(
        TypeError, match=r"^data: found .*Series, .*; pyro_vae.data.load takes a frame, as x.to_frame\("
    ):
        load(library.Series([1.0] * 20))
    if hasattr(library, "LazyFrame"):
        with pytest.raises(TypeError, match=r"^data: found .*LazyFrame, .*; .* takes a frame, as x.collect\(\) is$"):
            load(library.LazyFrame(COLUMNS))


def test_many_columns_are_not_all_named():
    polars = importlib.import_module("polars") if importlib.util.find_spec("polars") else pytest.skip("no polars")
    frame = polars.DataFrame({f"c{index}": CITY for index in range(9)})
    with pytest.raises(TypeError, match=r"'c4' \(String\) and 4 more, expected numbers"):
        load(frame)
