"""Values that no one means to give, and a judge of which of them make sense for which argument.

The judge knows the arguments by what they are called, and nothing of the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

POOL: list[Callable[[], Any]] = [
    *(lambda v=v: v for v in (None, True, False, -1, 0, 1, 2, 3, 1.5, -0.5, 1e-3, math.nan, math.inf, -math.inf)),
    *(lambda v=v: v for v in (10**30, 2**40, -(10**30), 2**32, 1j, "", "x", "cpu", "cuda:7", "meta", "auto", b"x")),
    *(
        lambda v=v: v
        for v in ((), (2,), (2, 2), (0,), (2, -1), (True, 2), (2.0, 2), (2**40, 2), (10**30,), ((2,), (2,)))
    ),
    lambda: [],
    lambda: [1, 2],
    lambda: ["a"],
    lambda: [None],
    lambda: [nn.Linear(2, 2)],
    lambda: {},
    lambda: {"a": 1},
    lambda: {1, 2},
    lambda: range(3),
    lambda: iter([1, 2]),
    object,
    lambda: lambda *args, **kwargs: None,
    lambda: int,
    lambda: nn.Linear,
    lambda: nn.Linear(2, 2),
    lambda: nn.Identity(),
    lambda: dist.Normal(0.0, 1.0),
    lambda: Path("some") / "folder",
    lambda: NotImplemented,
    lambda: torch.device("meta"),
    lambda: torch.float64,
    lambda: torch.tensor(1),
    lambda: torch.tensor(1.5),
    lambda: torch.tensor(True),
    lambda: torch.tensor(math.nan),
    lambda: torch.ones(2),
    lambda: torch.ones(0),
    lambda: torch.ones(2, 3),
    lambda: torch.full((6, 4), math.nan),
    lambda: torch.zeros(6, 4, dtype=torch.bool),
    lambda: torch.zeros(6, 4, dtype=torch.complex64),
    lambda: torch.zeros(6, 4).to_sparse(),
    lambda: torch.zeros(6, 4, device="meta"),
    lambda: torch.tensor([2, 2]),
    lambda: np.int64(2),
    lambda: np.float32(0.5),
    lambda: np.bool_(True),
    lambda: np.array(2),
    lambda: np.array([2, 2]),
    lambda: np.array([2.0, 2.5]),
    lambda: np.array(["a", "b"]),
    lambda: np.array([None]),
    lambda: np.zeros((6, 4), dtype=complex),
]

SENSIBLE, NONSENSE, EITHER = "sensible", "nonsense", "either"
Judge = Callable[[Any], str]


def _said(good: bool, perhaps: bool = False) -> str:
    return SENSIBLE if good else EITHER if perhaps else NONSENSE


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def count(least: int = 1) -> Judge:
    """Integers from ``least`` up; what is beyond a million may be refused."""
    return lambda v: _said(
        _is_int(v) and least <= v <= 10**6, (_is_int(v) and v > 10**6) or (isinstance(v, np.integer) and v >= least)
    )


def number(low: float = -math.inf, high: float = math.inf, infinite: bool = False) -> Judge:
    """Numbers inside of an interval; its ends and very large ones may be refused."""

    def judge(v: Any) -> str:
        if isinstance(v, (np.floating, np.integer)) and not np.isnan(v):
            return _said(False, low <= v <= high)
        inside = _is_number(v) and low <= v <= high and (infinite or math.isfinite(v))
        return _said(inside and low < v < high and abs(v) < 1e6, inside)

    return judge


def sizes(least: int = 1, number_of: int | None = None) -> Judge:
    """Sequences of integers from ``least`` up."""

    def judge(v: Any) -> str:
        if isinstance(v, np.ndarray):
            return _said(False, v.ndim == 1 and v.dtype.kind in "iu" and bool((v >= least).all()))
        if isinstance(v, Tensor):
            return _said(False, v.dim() == 1 and v.dtype == torch.int64)
        if not isinstance(v, (tuple, list, range)) or not all(_is_int(size) and size >= least for size in v):
            return NONSENSE
        return _said(len(v) > 0 and number_of in (None, len(v)) and max(v) < 10**6, True)

    return judge


def nested_sizes(v: Any) -> str:
    """A sequence of integers, or one of such sequences."""
    if isinstance(v, (tuple, list)) and v and all(isinstance(item, (tuple, list)) for item in v):
        return _said(False, all(sizes()(item) != NONSENSE for item in v))
    return sizes()(v)


def shape(v: Any) -> str:
    """An integer, or a sequence of them."""
    return count()(v) if _is_int(v) or isinstance(v, np.integer) else sizes()(v)


def one_of(*choices: Any) -> Judge:
    """One of these; integers and truth values may also be NumPy's."""
    plain = lambda v: v.item() if isinstance(v, (np.integer, np.bool_)) else v  # noqa: E731
    return lambda v: _said(any(type(plain(v)) is type(choice) and plain(v) == choice for choice in choices))


def nan(v: Any) -> str:
    """Not a number, as the mean of something may be."""
    return _said(False, isinstance(v, float) and math.isnan(v))


def flag(v: Any) -> str:
    """True or False."""
    return _said(type(v) is bool, type(v) is np.bool_)


def module(v: Any) -> str:
    """A module, which may still be one of another kind."""
    return _said(False, isinstance(v, nn.Module))


def modules(v: Any) -> str:
    """A sequence of modules."""
    return _said(False, isinstance(v, (tuple, list)) and all(isinstance(item, nn.Module) for item in v))


def program(v: Any) -> str:
    """What can be called, and is no class."""
    return _said(False, callable(v) and not isinstance(v, type))


def function(v: Any) -> str:
    """What can be called."""
    return _said(False, callable(v))


def path(v: Any) -> str:
    """A string or a path."""
    return _said(False, isinstance(v, (str, Path)))


def seed(v: Any) -> str:
    """An integer below 2**63 and not below 0."""
    is_int = _is_int(v) or isinstance(v, np.integer)
    return _said(is_int and 0 <= v < 2**31, is_int and 0 <= v < 2**63)


def device(v: Any) -> str:
    """The CPU, as there is nothing else here."""
    return _said(isinstance(v, (str, torch.device)) and str(v) == "cpu")


def array(v: Any) -> str:
    """A tensor or array of real numbers, dense, with values and a first dimension."""
    if isinstance(v, np.ndarray):
        return _said(False, v.dtype.kind in "biuf" and v.ndim > 0)
    if not isinstance(v, Tensor):
        return NONSENSE
    real = not v.is_complex() and v.layout is torch.strided and not v.is_meta
    return _said(False, real and v.dim() > 0)


def array_or_list(v: Any) -> str:
    """A tensor or array, or numbers in lists."""
    if isinstance(v, (tuple, list, range)):
        return _said(False, all(array_or_list(item) != NONSENSE or isinstance(item, (int, float)) for item in v))
    return array(v)


def labels(v: Any) -> str:
    """Integers, or whole numbers as a table has them: one, or a row of them."""
    if isinstance(v, (Tensor, np.ndarray)):
        dtype = str(v.dtype).rpartition(".")[2]
        at_hand = isinstance(v, np.ndarray) or (not v.is_meta and not v.is_sparse)
        is_whole = dtype.startswith("float") and at_hand and all(item % 1 == 0 for item in v.flatten().tolist())
        return _said(False, is_whole or dtype in ("int64", "int32", "uint8"))
    return _said(False, _is_int(v) or isinstance(v, (list, tuple, range, np.integer)))


def names(v: Any) -> str:
    """Names of sites."""
    return _said(False, isinstance(v, (tuple, list, set, range)) and all(isinstance(item, str) for item in v))


def optional(judge: Judge) -> Judge:
    """Or nothing."""
    return lambda v: SENSIBLE if v is None else judge(v)


def either(*judges: Judge) -> Judge:
    """The kindest of several."""

    def judge(v: Any) -> str:
        said = [each(v) for each in judges]
        return SENSIBLE if SENSIBLE in said else EITHER if EITHER in said else NONSENSE

    return judge


def anything(v: Any) -> str:
    """No one can tell."""
    return EITHER
