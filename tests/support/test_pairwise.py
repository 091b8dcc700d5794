"""The few cases in which all pairs meet: each pair is there, and there are not many more cases than there must be."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.support.pairwise import all_pairs, in_turn


@pytest.mark.parametrize(
    ("lengths", "most"),
    [((), 1), ((5,), 5), ((3, 2), 6), ((2, 3, 5), 15), ((2, 2, 2), 4), ((3, 3, 3, 3), 9), ((2,) * 6, 8),
     ((3,) * 13, 21), ((10, 5, 14, 2, 4), 140)],
    ids=str,
)  # fmt: skip
def test_any_two_values_meet(lengths, most):
    """The least number is the product of the two longest axes; for 13 axes of 3 values 15 are known."""
    axes = [[f"{axis}{value}" for value in range(length)] for axis, length in enumerate(lengths)]
    cases = all_pairs(*axes)
    assert all(value in axis for case in cases for value, axis in zip(case, axes, strict=True))
    for i, j in combinations(range(len(axes)), 2):
        assert {(case[i], case[j]) for case in cases} == set(product(axes[i], axes[j]))
    assert len(cases) == len(set(cases)) <= most
    assert cases == all_pairs(*axes)


def test_one_value_in_turn_for_each():
    cases = in_turn("abc", [1, 2])
    assert [each.values for each in cases] == [*product("abc", [1, 2])]
    assert [each.values for each in cases if not each.marks] == [("a", 1), ("b", 2), ("c", 1)]
    assert {mark.name for each in cases for mark in each.marks} == {"cross"}
