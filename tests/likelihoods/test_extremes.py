"""Log-probabilities in float32 are those of mpmath's 50 digits, at the extremes of parameters and data."""

from __future__ import annotations

import pytest

from tests.likelihoods.extremes import CASES, errors
from tests.support.every_likelihood import MAKERS


def test_every_likelihood_is_held_to_it():
    found = {type(case.likelihood).__name__ for case in CASES.values()}
    assert found == set(MAKERS) - {"colour"}


@pytest.mark.parametrize("name", CASES)
def test_its_errors(name):
    """Relative to log p: of counts to all of it, of others to 1 nat where log p is closer to 0.

    There a float32 logit of 15, whose last digit is 1e-6, leaves as much to log p.
    """
    found = errors(name)
    assert len(found.exact) >= 16
    assert max(found.relative) < CASES[name].tolerance, found
