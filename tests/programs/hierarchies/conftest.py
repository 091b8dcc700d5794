"""Each hierarchy in turn."""

from __future__ import annotations

import pytest

from tests.support.programs import HIERARCHIES


@pytest.fixture(params=HIERARCHIES)
def name(request):
    return request.param


@pytest.fixture
def program(name):
    return HIERARCHIES[name]()
