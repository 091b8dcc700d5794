"""Fixtures of the tests of compilation."""

from __future__ import annotations

import pyro
import pytest


@pytest.fixture
def without_validation():
    """As in ``fit``; a distribution that checks its arguments reads their values."""
    with pyro.validation_enabled(False):
        yield
