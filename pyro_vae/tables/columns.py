r"""One column of a table: how its entries become numbers, and how numbers become entries again.

.. math:: \text{real: } x = \frac{v - m}{s}, \qquad \text{count: } x = v, \qquad
          \text{binary and nominal: } x = k \text{ with } v = \text{category}_k .

m and s are the mean and the standard deviation of the observed entries. A column whose numbers are large would outweigh
the others in :math:`\log p(x|z) = \sum_j \log p(x_j|z)`, and a network starts with outputs near 0, which an income of
50,000 is far from. The change of scale changes the density,

.. math:: \log p(v) = \log p(x) - \log s .

A column is plain data, so that JSON can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["Column", "Kind", "refuse_column"]

Kind = Literal["real", "count", "binary", "nominal"]
Category = str | bool | int | float

_EXACT = 2**24  # the first whole number whose successor float32 rounds

# The nullable types that take the place of those that have no missing value.
_NULLABLE = {"bool": "boolean"} | {
    f"{sign}int{bits}": f"{name}{bits}" for sign, name in (("", "Int"), ("u", "UInt")) for bits in (8, 16, 32, 64)
}


def refuse_column(name: Any, found: str, expected: str) -> NoReturn:
    """Raise the ``ValueError`` of a column."""
    raise ValueError(f"column {name!r}: found {found}, expected {expected}")


@dataclass(frozen=True)
class Column:
    """What a table knows of a column.

    Parameters
    ----------
    name
        Its name.
    kind
        ``"real"``, ``"count"``, ``"binary"`` or ``"nominal"``.
    dtype
        The pandas type that its entries come back in.
    missing
        The share of missing entries in the frame that it was fitted on.
    low, high, mean, scale
        The range, the mean and the standard deviation of the observed numbers; 0 and 1 where there are categories.
    categories, ordered
        The categories in the order of their codes, empty for numbers, and whether pandas has them in an order.

    Examples
    --------
    >>> income = Column("income", "real", "int64", 0.1, 10_000.0, 90_000.0, 50_000.0, 20_000.0)
    >>> income.encode(np.array([50_000, 90_000])), income.log_scale
    (array([0., 2.]), 9.903487552536127)
    >>> print(income)
    income: real, from 10000 to 90000, mean 50000, standard deviation 20000; 10 % missing
    """

    name: str | int
    kind: Kind
    dtype: str
    missing: float
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    scale: float = 1.0
    categories: tuple[Category, ...] = ()
    ordered: bool = False

    def __str__(self) -> str:
        if self.categories:
            shown = [repr(each) for each in self.categories]
            shown = shown if len(shown) <= 6 else [*shown[:5], f"... {shown[-1]}"]
            what = f"{len(self.categories)} categories, {', '.join(shown)}"
        else:
            what = f"from {self.low:g} to {self.high:g}, mean {self.mean:g}, standard deviation {self.scale:g}"
        return f"{self.name}: {self.kind}, {what}; {100 * self.missing:.3g} % missing"

    @property
    def log_scale(self) -> float:
        """The log s of a real column, in nats; 0 for others, whose entries have probabilities."""
        return math.log(self.scale) if self.kind == "real" else 0.0

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the numbers of observed entries.

        Raises
        ------
        ValueError
            For a category that the column does not have, for infinite numbers, and for counts that are none.
        """
        if self.categories:
            codes = {category: code for code, category in enumerate(self.categories)}
            unseen = next((value for value in values.tolist() if value not in codes), None)
            if unseen is not None:
                also = ", kinds={...: 'count'} or 'real' to have numbers" if isinstance(unseen, (int, float)) else ""
                refuse_column(
                    self.name,
                    f"{unseen!r}, which is none of its {len(codes)} categories",
                    f"{', '.join(map(repr, list(codes)[:6]))}{', ...' * (len(codes) > 6)}: fit the table on a frame "
                    f"that has it{also}, or make it missing (None)",
                )
            return np.array([codes[value] for value in values.tolist()], dtype=np.float64)
        numbers = as_numbers(self.name, values)
        if self.kind == "count":
            check_counts(self.name, numbers)
            return numbers
        return (numbers - self.mean) / self.scale

    def in_units(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return numbers in the column's units, m + s x for real ones."""
        return self.mean + self.scale * x if self.kind == "real" else x

    def decode(self, x: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_], pandas: Any) -> Any:
        """Return numbers ``(N,)`` as a pandas series of the column's type, with gaps where ``missing`` is true.

        Counts, and real numbers of an integer type, are rounded to whole ones. A type that has no missing value becomes
        the nullable one, such as Int64, if there are gaps.
        """
        dtype = _NULLABLE.get(self.dtype, self.dtype) if missing.any() else self.dtype
        if self.categories:
            codes = np.where(missing, -1, np.nan_to_num(x)).round().astype(int)
            if self.dtype == "category":
                kind = pandas.CategoricalDtype(pandas.Index(list(self.categories)), self.ordered)
                return pandas.Series(pandas.Categorical.from_codes(codes, dtype=kind))
            values = np.empty(len(x), dtype=object)
            values[:] = [np.nan if code < 0 else self.categories[code] for code in codes]
            return pandas.Series(values, dtype=object).astype(dtype)
        numbers = self.in_units(x)
        if self.kind == "count" or "int" in self.dtype.lower():
            numbers = numbers.round()
        if "int" in self.dtype.lower():  # a draw of bytes may lie beyond 255
            limits = np.iinfo(self.dtype.lower().partition("[")[0])
            numbers = numbers.clip(limits.min, limits.max)
        return pandas.Series(np.where(missing, np.nan, numbers)).astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the column as data for JSON."""
        return asdict(self) | {"categories": list(self.categories)}

    @classmethod
    def from_dict(cls, data: Any, name: str = "column") -> Column:
        """Return the column that :meth:`to_dict` made data of.

        Raises
        ------
        ValueError
            For anything else; ``name`` is what the message calls the data.
        """
        expected = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != expected:
            found = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
            raise ValueError(f"{name}: found {found}, expected the fields {sorted(expected)}")
        for field, is_right, wanted in _FIELDS:
            if not is_right(data[field]):
                raise ValueError(f"{name}.{field}: found {data[field]!r}, expected {wanted}")
        categories = tuple(data["categories"])
        num = len(categories)
        if num != len(set(categories)) or not {"binary": num == 2, "nominal": num > 1}.get(data["kind"], num == 0):
            raise ValueError(
                f"{name}.categories: found {list(categories)}, expected those of a {data['kind']} column, all different"
            )
        return cls(**{**data, "categories": categories})


def as_numbers(name: Any, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return observed entries as finite float64."""
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        strange = next(value for value in values.tolist() if not isinstance(value, (int, float)))
        refuse_column(name, repr(strange), "numbers")
    if not (finite := np.isfinite(numbers)).all():
        refuse_column(name, str(numbers[~finite][0]), "finite numbers: replace it, df.replace([inf, -inf], nan)")
    return numbers


def check_counts(name: Any, numbers: npt.NDArray[np.float64]) -> None:
    """Raise ``ValueError`` for numbers that are no counts."""
    wrong = (numbers < 0) | (numbers != np.floor(numbers))
    if wrong.any():
        refuse_column(name, f"{numbers[wrong][0]:g}", "counts, 0, 1, 2, ...; kinds={...: 'real'} takes any number")
    if (largest := numbers.max(initial=0)) > _EXACT:
        expected = f"counts of at most {_EXACT}, from where on float32 rounds; kinds={{...: 'real'}} takes any number"
        refuse_column(name, f"{largest:.0f}", expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("name", lambda value: isinstance(value, (str, int)) and not isinstance(value, bool), "a string or an integer"),
    ("kind", lambda value: value in get_args(Kind), f"one of {', '.join(map(repr, get_args(Kind)))}"),
    ("dtype", lambda value: isinstance(value, str), "the name of a pandas type"),
    ("missing", lambda value: _is_number(value) and 0 <= value < 1, "a share, from 0 to 1"),
    *((name, _is_number, "a finite number") for name in ("low", "high", "mean")),
    ("scale", lambda value: _is_number(value) and value > 0, "a positive number"),
    (
        "categories",
        lambda value: isinstance(value, (list, tuple)) and all(isinstance(each, (str, int, float)) for each in value),
        "a list of strings, numbers or booleans",
    ),
    ("ordered", lambda value: isinstance(value, bool), "True or False"),
)
