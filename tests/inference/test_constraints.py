"""Constraints as plain data: all of torch's come back, and others are told apart."""

from __future__ import annotations

import json

import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import transform_to

from pyro_vae.inference.constraints import constraint_from, described

TAKEN = [
    constraints.real,
    constraints.positive,
    constraints.nonnegative,
    constraints.unit_interval,
    constraints.simplex,
    constraints.lower_cholesky,
    constraints.corr_cholesky,
    constraints.positive_definite,
    constraints.softplus_positive,
    constraints.greater_than(0.5),
    constraints.greater_than_eq(torch.tensor(2.0)),
    constraints.less_than(-1),
    constraints.interval(-1.0, 2.0),
    constraints.half_open_interval(0, 3),
    constraints.independent(constraints.interval(-1.0, 2.0), 1),
    constraints.real_vector,
]


@pytest.mark.parametrize("constraint", TAKEN, ids=str)
def test_a_constraint_comes_back(constraint):
    found = constraint_from(json.loads(json.dumps(described(constraint))))
    assert type(found) is type(constraint) and found.event_dim == constraint.event_dim
    unconstrained = torch.linspace(-2, 2, 4)
    if "definite" in str(constraint).lower() or "cholesky" in str(constraint).lower():
        unconstrained = torch.linspace(-2, 2, 6) if "corr" in str(constraint).lower() else unconstrained.reshape(2, 2)
    values = [transform_to(each)(unconstrained) for each in (found, constraint)]
    assert torch.equal(*values)


def test_equal_constraints_have_one_description():
    assert described(constraints.greater_than(0)) == described(constraints.positive) == "positive"
    assert described(constraints.greater_than(1)) != described(constraints.greater_than(2))
    pairs = [constraints.interval(torch.zeros(2), torch.ones(2)), constraints.interval(torch.zeros(2), torch.ones(3))]
    assert described(pairs[0]) != described(pairs[1])
    assert constraint_from(described(pairs[0])) is None


@pytest.mark.parametrize(
    "description",
    [
        *(None, 3, [], "none", {"real": 1}, ["none"], [["a"]], ["interval", 1.0], ["interval", "a", 1.0]),
        *(["independent", "none", 1], ["independent", "real", -1], ["independent", "real", True]),
        ["greater_than", True],
    ],
)
def test_what_is_none_gives_none(description):
    assert constraint_from(description) is None
