"""All pairs of values in few cases.

A full cross of axes with n_1 ≥ n_2 ≥ ... values has n_1 n_2 n_3 ... cases. Most faults come from one value or from two
that meet (Kuhn, Wallace and Gallo 2004, "Software Fault Interactions and Implications for Software Testing"), and each
two values of different axes meet already in about n_1 n_2 cases. :func:`all_pairs` finds such cases axis by axis, from
the longest (Lei and Tai 1998, "In-Parameter-Order: A Test Generation Strategy for Pairwise Testing").
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import combinations, product
from typing import Any

import pytest

Case = dict[int, Hashable]  # the value of each axis, by the number of the axis; some may be open


def pairs_of(case: Case) -> set[tuple[int, Hashable, int, Hashable]]:
    """Return the pairs of values that meet in a case."""
    return {(i, case[i], j, case[j]) for i, j in combinations(sorted(case), 2)}


def all_pairs(*values: Iterable[Hashable]) -> list[tuple[Any, ...]]:
    """Return cases in which any two values of different axes meet at least once, the same at each call."""
    axes = [list(axis) for axis in values]
    order = sorted(range(len(axes)), key=lambda axis: -len(axes[axis]))
    cases: list[Case] = [{}]
    for number, axis in enumerate(order):
        if number < 2:  # of two axes all pairs are the full cross
            cases = [{**case, axis: value} for case in cases for value in axes[axis]]
            continue
        wanted = [{axis: a, other: b} for other in order[:number] for a, b in product(axes[axis], axes[other])]
        left = set().union(*map(pairs_of, wanted))
        for start, case in enumerate(cases):
            turn = [axes[axis][(start + k) % len(axes[axis])] for k in range(len(axes[axis]))]
            case[axis] = max(turn, key=lambda value: len(pairs_of({**case, axis: value}) & left))
            left -= pairs_of(case)
        for pair in wanted:
            if pairs_of(pair) <= left:
                _add(pair, cases)
                left -= pairs_of(pair)
    return [tuple(case.get(axis, axes[axis][0]) for axis in range(len(axes))) for case in cases]


def in_turn(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Return the full cross of two axes, of which `make test` runs one value of the second for each of the first.

    These values come in turn; what is left is marked ``cross``.
    """
    others = list(second)
    return [
        pytest.param(one, other, marks=() if i % len(others) == j else pytest.mark.cross)
        for i, one in enumerate(first)
        for j, other in enumerate(others)
    ]


def _add(pair: Case, cases: list[Case]) -> None:
    """Let two values meet in a case that is open where they go, or in a new one."""
    for case in cases:
        if all(case.get(axis, value) == value for axis, value in pair.items()):
            return case.update(pair)
    cases.append(dict(pair))
