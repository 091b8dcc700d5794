"""Which kind a column is of, what is refused, and which message says what to do."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest

from pyro_vae import Table

pd = pytest.importorskip("pandas")

CODES = [0, 1, 2, 1, 0, 2, 1, 0, 2, 2, 1, 0, 1, 2, 0, 1]  # five of each, at least
EVENTS = [0, 0, 1, 7, 2, 0, 12, 3, 1, 0, 25, 4, 0, 2, 1, 3]
AGES = [40, 41, 44, 39, 42, 38, 40, 43, 45, 37, 36, 40, 41, 42, 39, 35]  # vary less than a Poisson distribution


def table_of(values, kinds=None, **options):
    return Table.from_frame(pd.DataFrame({"a": pd.Series(values, **options)}), kinds and {"a": kinds})


class TestDecisions:
    @pytest.mark.parametrize(
        ("values", "options", "kind"),
        [
            ([True, False, True], {}, "binary"),
            ([True, None, False], {"dtype": "object"}, "binary"),
            ([True, pd.NA, False], {"dtype": "boolean"}, "binary"),
            ([0, 1, 1], {}, "binary"),
            ([0.0, math.nan, 1.0], {}, "binary"),
            (["a", "b", "a"], {}, "nominal"),
            (["a", None, "b"], {"dtype": "string"}, "nominal"),
            (["a", "b", "a"], {"dtype": "category"}, "nominal"),
            (CODES, {}, "nominal"),
            ([float(code) for code in CODES] + [math.nan], {}, "nominal"),
            (CODES[:5], {}, "real"),  # too few of each to be sure, and their variance is below their mean
            (EVENTS, {}, "count"),
            ([*EVENTS, pd.NA], {"dtype": "Int64"}, "count"),
            (AGES, {}, "real"),
            ([-3, *EVENTS], {}, "real"),
            ([0, 12, 52_000, 31_000, 1_001], {}, "real"),
            ([0.5, 1.5, 0.5], {}, "real"),
            ([Decimal("0.5"), Decimal("1.5")], {}, "real"),
        ],
    )
    def test_the_kind_follows_from_the_entries(self, values, options, kind):
        (column,) = table_of(values, **options).columns
        assert column.kind == kind

    @pytest.mark.parametrize("kind", ["real", "count", "nominal"])
    def test_a_given_kind_counts(self, kind):
        (column,) = table_of(EVENTS, kind).columns
        assert column.kind == kind and column.categories == ((0, 1, 2, 3, 4, 7, 12, 25) if kind == "nominal" else ())

    def test_two_names_may_be_binary(self):
        (column,) = table_of(["yes", "no", "yes"], "binary").columns
        assert (column.kind, column.categories) == ("binary", ("no", "yes"))

    def test_numbers_are_described(self):
        table = Table.from_frame(pd.DataFrame({"x": [1.0, 3.0, None, 5.0], "c": list("hgfe"), "u": [0, 1, 1, 0]}))
        assert str(table).splitlines() == [
            "x: real, from 1 to 5, mean 3, standard deviation 1.63299; 25 % missing",
            "c: nominal, 4 categories, 'e', 'f', 'g', 'h'; 0 % missing",
            "u: binary, 2 categories, 0, 1; 0 % missing",
        ]
        letters = str(table_of(list("abcdefghij") * 2))
        assert letters == "a: nominal, 10 categories, 'a', 'b', 'c', 'd', 'e', ... 'j'; 0 % missing"


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "kind", "message"),
        [
            ([None, math.nan], None, r"no entry, all 2 are missing, expected one or more .*df.drop\(columns='a'\)"),
            ([3.0, 3.0, math.nan], None, r"3.0 in all rows, expected entries that differ: leave it out, df.drop"),
            (["x", "x"], None, "'x' in all rows, expected entries that differ"),
            ([1.0, -math.inf], None, r"-inf, expected finite numbers: replace it, df.replace\(\[inf, -inf\], nan\)"),
            (pd.to_datetime(["2020-01-01", "2021-01-01"]), None, "dates or times, expected numbers, such as days"),
            (pd.to_timedelta([1, 2], unit="D"), None, "dates or times"),
            (pd.to_datetime(["2020-01-01"]).date, None, "dates or times"),
            (["x", 1], None, "entries of type int, str, expected numbers, booleans or strings, of one type"),
            ([[1], [2]], None, "entries of type list"),
            ([1j, 2j], None, "entries of type complex"),
            ([f"id {i}" for i in range(20)], None, "20 strings that all differ, expected categories that recur"),
            (["x", "y"], "real", "strings, expected numbers for the kind 'real': 'nominal' takes strings"),
            ([True, False], "count", "booleans, expected numbers for the kind 'count'"),
            ([0.5, 1.0], "count", r"0.5, expected counts, 0, 1, 2, \.\.\.; kinds=.* takes any number"),
            ([-1, 1], "count", "-1, expected counts"),
            ([3, 2**24 + 1], "count", r"16777217, expected counts of at most 16777216, .*; kinds=.* takes any number"),
            ([1, 2, 3], "binary", "3 categories, expected two for the kind 'binary': 'nominal' takes more"),
            ([1e200, -1e200], None, "the standard deviation inf, expected numbers whose square"),
            (pd.cut(pd.Series([1.0, 5.0]), [0, 3, 9]), None, "categories of type Interval.*rename_categories"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
    def test_a_column_is_refused_by_name(self, values, kind, message):
        with pytest.raises(ValueError, match=f"^column 'a': found {message}"):
            table_of(values, kind)

    @pytest.mark.parametrize(
        ("kinds", "error", "message"),
        [
            ({"b": "real"}, ValueError, "^kinds: found the column 'b', expected one of 'a'$"),
            ({"a": "float"}, ValueError, r"^kinds\['a'\]: found 'float', expected one of 'real', 'count', 'binary', "),
            (["real"], TypeError, "^kinds: found list, expected a dictionary, such as {'age': 'real'}$"),
        ],
    )
    def test_kinds_that_are_none(self, kinds, error, message):
        with pytest.raises(error, match=message):
            Table.from_frame(pd.DataFrame({"a": [0.5, 1.5]}), kinds)

    @pytest.mark.parametrize(
        ("df", "error", "message"),
        [
            (np.zeros((3, 2)), TypeError, r"^df: found ndarray, expected a frame .*: pandas.DataFrame\(df\), with "),
            (pd.DataFrame({"a": []}), ValueError, "^df: found 0 rows and 1 columns, expected one of each or more$"),
            (pd.DataFrame(index=[0, 1]), ValueError, "^df: found 2 rows and 0 columns"),
            (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "^df: found 2 columns of the name 'a', expected"),
            (pd.DataFrame({("a", "b"): [1]}), TypeError, r"^df: found the column name \('a', 'b'\), expected a string"),
        ],
    )
    def test_frames_that_are_none(self, df, error, message):
        with pytest.raises(error, match=message):
            Table.from_frame(df)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"city": "Bern"}, r"^column 'city': found 'Bern', which is none of its 3 categories, expected 'Oslo', "),
            ({"code": 7}, r"^column 'code': found 7, which .*: fit the table .* kinds=.*'count'.* or make it missing"),
            ({"x": math.inf}, "^column 'x': found inf, expected finite numbers"),
            ({"x": "much"}, "^column 'x': found 'much', expected numbers$"),
            ({"events": 0.5}, "^column 'events': found 0.5, expected counts"),
            (
                {"events": 2**24 + 1},
                "^column 'events': found 16777217, expected counts of at most 16777216, from where",
            ),
        ],
    )
    def test_entries_that_the_table_does_not_know(self, change, message):
        cities = ["Oslo", "Paris", "Rome", "Rome"] * 4
        df = pd.DataFrame({"city": cities, "code": CODES, "x": np.arange(16) + 0.5, "events": EVENTS})
        table = Table.from_frame(df)
        with pytest.raises(ValueError, match=message):
            table.pack(df.astype(object).assign(**change))

    def test_other_columns_than_those_of_the_table(self):
        df = pd.DataFrame({"a": [0.5, 1.5], "b": [0, 1]})
        table = Table.from_frame(df)
        with pytest.raises(
            ValueError, match=r"^df: found no \['b'\] and further columns \['c'\], expected .*df\[table"
        ):
            table.pack(df.rename(columns={"b": "c"}))
        assert (table.pack(df[["b", "a"]]) == table.pack(df)).all()  # in any order

    def test_pandas_that_is_not_there(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pandas", None)
        with pytest.raises(ImportError, match=r'^df: found .*expected a pandas .*: pip install "pyro_vae\[tables\]"$'):
            Table.from_frame({"a": [1]})
