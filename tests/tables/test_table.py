"""Tables: round trips of every kind and type, scales in closed form, and tables as plain data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_vae
from pyro_vae import MLP, Table
from pyro_vae.tables.features import ColumnFeatures

pd = pytest.importorskip("pandas")

EVENTS = [0, 0, 1, 7, 2, 0, 12, 3]


def mixed():
    df = pd.DataFrame(
        {
            "income": pd.Series([52_000, 31_000, None, 78_500, 44_000, 61_000, 29_999, 70_001], dtype="Int64"),
            "smoker": [True, False, False, True, True, False, True, False],
            "city": pd.Series(["Rome", "Oslo", None, "Rome", "Bern", "Oslo", "Rome", "Bern"], dtype="category"),
            "events": EVENTS,
            "height": np.array([1.7, 1.8, 1.6, math.nan, 1.75, 1.65, 1.9, 1.55], dtype=np.float32),
        }
    )
    return df.set_axis(list("hgfedcba"))


class TestRoundTrips:
    @pytest.mark.parametrize(
        ("values", "dtype", "kind"),
        [
            ([1.5, -2.25, 1e6], "float64", "real"),
            ([1.5, -2.25, None], "float32", "real"),
            ([1.5, -2.25, None], "Float64", "real"),
            ([-7, 52_001, 2**40], "int64", "real"),
            ([-7, None, 2**40], "Int64", "real"),
            ([1, 200, 255], "uint8", "real"),
            ([3, 0, 9], "int32", "count"),
            ([3, None, 9], "float64", "count"),
            ([3, None, 9], "Int16", "count"),
            ([0, 1, 1], "int64", "binary"),
            ([0, None, 1], "float64", "binary"),
            ([True, False, True], "bool", "binary"),
            ([True, False, None], "boolean", "binary"),
            ([True, False, math.nan], "object", "binary"),
            (["x", "y", math.nan], "object", "nominal"),
            (["x", "y", None], "string", "nominal"),
            ([30, 10, 20], "int64", "nominal"),
            ([0.5, None, 2.5], "float64", "nominal"),
            (["x", "y", None], "category", "nominal"),
            ([30, 10, None], "category", "nominal"),
            (["low", None, "high"], pd.CategoricalDtype(["low", "mid", "high"], ordered=True), "nominal"),
            ([2, None, 3], "int64[pyarrow]", "count"),
            (["x", None, "y"], "large_string[pyarrow]", "nominal"),
        ],
    )
    @pytest.mark.usefixtures("double")
    def test_every_type_comes_back(self, values, dtype, kind):
        if "pyarrow" in str(dtype):
            pytest.importorskip("pyarrow")
        df = pd.DataFrame({"a": pd.Series(values, dtype=dtype, index=[5, 3, 5])})
        table = Table.from_frame(df, {"a": kind})
        x = table.pack(df)
        assert x.shape == (3, 2, 1) and x[:, 1, 0].tolist() == df["a"].notna().tolist()
        pd.testing.assert_frame_equal(table.unpack(x, df.index), df, rtol=1e-15)
        later = Table.from_dict(json.loads(json.dumps(table.to_dict())))
        assert later == table and torch.equal(later.pack(df), x)

    @pytest.mark.parametrize(("dtype", "nullable"), [("int64", "Int64"), ("uint8", "UInt8"), ("bool", "boolean")])
    def test_a_type_without_gaps_becomes_the_nullable_one(self, dtype, nullable):
        df = pd.DataFrame({"a": pd.Series([0, 1, 1], dtype=dtype)})
        found = Table.from_frame(df).unpack(torch.tensor([[0.0], [math.nan], [1.0]]))
        pd.testing.assert_series_equal(found["a"], pd.Series([0, pd.NA, 1], dtype=nullable, name="a"))

    def test_columns_come_back_in_order_and_with_their_index(self):
        df = mixed()
        table = Table.from_frame(df)
        assert [column.kind for column in table.columns] == ["real", "binary", "nominal", "count", "real"]
        pd.testing.assert_frame_equal(table.unpack(table.pack(df), df.index), df)  # in float32, whole numbers exactly
        assert str(table.unpack(table.pack(df)).index) == "RangeIndex(start=0, stop=8, step=1)"

    def test_numbers_are_standardised_and_codes_follow_the_categories(self):
        df = mixed()
        x, mask = Table.from_frame(df).pack(df).unbind(1)
        torch.testing.assert_close((x * mask).sum(0)[[0, 4]], torch.zeros(2), rtol=0, atol=2e-6)
        torch.testing.assert_close((x**2 * mask).sum(0)[[0, 4]], torch.tensor([7.0, 7.0]))
        assert x[:, 2].tolist() == [2, 1, 0, 2, 0, 1, 2, 0] and mask[:, 2].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]

    def test_draws_beyond_an_integer_type_stay_in_it(self):
        df = pd.DataFrame({"a": np.array([0, 3, 250], dtype=np.uint8)})
        assert Table.from_frame(df, {"a": "real"}).unpack(torch.tensor([[9.0], [-9.0]]))["a"].tolist() == [255, 0]

    def test_polars(self):
        pl, _ = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
        df = mixed().reset_index(drop=True)
        frame = pl.DataFrame({name: [None if pd.isna(v) else v for v in df[name].tolist()] for name in df})
        table = Table.from_frame(frame)
        assert torch.equal(table.pack(frame), Table.from_frame(df).pack(df)) and table.names == list(df.columns)
        with pytest.raises(TypeError, match=r"^df: found polars.LazyFrame, expected a frame: df.collect\(\)$"):
            Table.from_frame(frame.lazy())

    def test_tensors_of_another_shape(self):
        df = mixed()
        with pytest.raises(ValueError, match=r"^x: found the shape \(4, 3\), expected \(N, 2, 5\) or \(N, 5\)$"):
            Table.from_frame(df).unpack(torch.zeros(4, 3))


class TestLikelihood:
    @pytest.mark.usefixtures("double")
    def test_log_p_in_units_is_that_of_the_numbers_as_they_are(self):
        """One latent value: Gaussians and a negative binomial of columns with holes, by scipy."""
        df = mixed()[["income", "events", "height"]].astype("float64")
        table = Table.from_frame(df)
        p = table.likelihood(None)
        output = torch.tensor([0.3, -0.2, 0.1])
        x, mask = table.pack(df).unbind(1)
        log_p = p.from_output(output.expand(8, 3)).masked(mask != 0).log_prob(x) - table.log_scale(table.pack(df))
        income, events, height = table.columns
        rate = events.mean * math.exp(-0.2)  # to the precision of bounds that are far away
        expected = [
            sum(
                distribution.logpdf(value) if hasattr(distribution, "logpdf") else distribution.logpmf(value)
                for value, distribution in zip(row, _in_units(income, rate, height), strict=True)
                if not math.isnan(value)
            )
            for row in df.to_numpy()
        ]
        torch.testing.assert_close(log_p, torch.tensor(expected), rtol=1e-4, atol=0)
        torch.testing.assert_close(
            table.log_scale(table.pack(df))[:3],
            torch.tensor([math.log(income.scale * height.scale)] * 2 + [math.log(height.scale)]),
        )

    def test_neighbours_of_a_kind_share_a_part(self):
        kinds = {"a": "real", "b": "real", "c": "count", "d": "count", "e": "nominal", "f": "nominal", "g": "nominal"}
        df = pd.DataFrame({name: [0, 1, 2, 3] for name in kinds})
        df["g"] = [0, 1, 0, 1]
        parts = Table.from_frame(df, kinds).likelihood(None).parts
        assert [(type(part).__name__, part.data_shape) for part in parts] == [
            ("Gaussian", (2,)), ("NegativeBinomial", (1,)), ("NegativeBinomial", (1,)), ("Nominal", (2,)),
            ("Nominal", (1,)),
        ]  # fmt: skip

    def test_a_count_starts_at_its_mean(self):
        df = mixed()
        likelihood = Table.from_frame(df).likelihood(None)
        mean = likelihood.from_output(torch.zeros(likelihood.num_outputs)).mean
        torch.testing.assert_close(mean[3].item(), float(np.mean(EVENTS)), rtol=1e-5, atol=0)

    def test_an_income_as_it_is_starts_as_well_as_any_column(self):
        df = mixed()
        table = Table.from_frame(df)
        vae = table.vae(latent_dim=2, hidden_dims=(16,))
        pair = pyro_vae.observed_only(vae.model, vae.guide)
        bound = pyro_vae.ELBO(num_particles=50).bound(*pair, table.pack(df))
        assert bound.min() > -40  # five columns; the income as it is has a bound of -1e9


def _in_units(income, rate, height):
    theta = 1.0
    return (
        stats.norm(income.mean + 0.3 * income.scale, income.scale),
        stats.nbinom(theta, theta / (theta + rate)),
        stats.norm(height.mean + 0.1 * height.scale, height.scale),
    )


class TestFeatures:
    def test_names_become_indicators_and_counts_logarithms(self):
        features = ColumnFeatures(torch.nn.Identity(), (0, 3, 0, 2), (2,))
        x = torch.tensor([[[0.5, 2.0, 7.0, 0.0]], [[-0.5, 0.0, 0.0, 1.0]]])
        expected = [[[0.5, 0, 0, 1, math.log(8), 1, 0]], [[-0.5, 1, 0, 0, 0, 0, 1]]]
        torch.testing.assert_close(features(x), torch.tensor(expected))
        with pytest.raises(ValueError, match=r"^ColumnFeatures: found an input of shape \(2, 3\), expected"):
            features(torch.zeros(2, 3))

    def test_the_vae_has_the_sizes_asked_for(self):
        table = Table.from_frame(mixed())
        vae = table.vae(3, (8, 6), activation="relu")
        encoder = vae.posterior.network.network
        assert isinstance(encoder, MLP) and encoder.in_shape == (7,) and encoder.out_shape == (2, 3)
        assert [layer.out_features for layer in vae.likelihood.network.hidden[::2]] == [6, 8]
        with pytest.raises(ValueError, match="^latent_dim: found 0, expected a positive integer"):
            table.vae(0)


class TestPlainData:
    def test_saved_beside_a_checkpoint(self, tmp_path):
        df = mixed()
        table = Table.from_frame(df)
        vae = table.vae(latent_dim=2, hidden_dims=(8,))
        pyro_vae.save(vae, tmp_path)
        (tmp_path / "table.json").write_text(json.dumps(table.to_dict()), encoding="utf-8")
        later = Table.from_dict(json.loads((tmp_path / "table.json").read_text(encoding="utf-8")))
        loaded = pyro_vae.load(tmp_path)
        frames = [
            each.impute(program.model, program.guide, df, num_particles=20, seed=0)
            for each, program in ((table, vae), (later, loaded))
        ]
        pd.testing.assert_frame_equal(*frames)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "number"}, r"columns\[1\].kind: found 'number', expected one of 'real', 'count', 'binary', "),
            ({"name": None}, r"columns\[1\].name: found None, expected a string or an integer"),
            ({"dtype": 8}, r"columns\[1\].dtype: found 8, expected the name of a pandas type"),
            ({"missing": 1.5}, r"columns\[1\].missing: found 1.5, expected a share, from 0 to 1"),
            ({"mean": math.nan}, r"columns\[1\].mean: found nan, expected a finite number"),
            ({"scale": 0.0}, r"columns\[1\].scale: found 0.0, expected a positive number"),
            ({"ordered": 1}, r"columns\[1\].ordered: found 1, expected True or False"),
            ({"categories": "ab"}, r"columns\[1\].categories: found 'ab', expected a list of strings, numbers or"),
            ({"categories": ["a", "a"]}, r"columns\[1\].categories: found \['a', 'a'\], expected those of a nominal"),
            ({"kind": "real"}, r"columns\[1\].categories: found \['a', 'b'\], expected those of a real column"),
            ({"kind": "binary", "categories": [1, 2, 3]}, r"columns\[1\].categories: found \[1, 2, 3\], expected"),
            ({"more": 1}, r"columns\[1\]: found \[.*'more'.*\], expected the fields \["),
            ({"name": "x"}, r"columns: found the names \['x', 'x'\], expected names that differ"),
        ],
    )
    def test_data_of_another_kind(self, change, message):
        table = Table.from_frame(pd.DataFrame({"x": [0.5, 1.5], "y": ["a", "b"]}))
        data = table.to_dict()
        data["columns"][1] |= change
        with pytest.raises(ValueError, match=f"^{message}"):
            Table.from_dict(data)

    @pytest.mark.parametrize("data", [None, {}, {"columns": []}, [1]])
    def test_no_table(self, data):
        with pytest.raises(ValueError, match=r"^data: found .*, expected {'columns': \[...\]}, as to_dict returns it$"):
            Table.from_dict(data)
        with pytest.raises(ValueError, match=r"^columns\[0\]: found int, expected the fields"):
            Table.from_dict({"columns": [1]})
