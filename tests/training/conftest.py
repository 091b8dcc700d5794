"""Fixtures of the tests of training."""

from __future__ import annotations

import pyro
import pytest

from pyro_vae.compilation import compiled as compilation
from tests.support.programs import traced


@pytest.fixture
def only_traced(monkeypatch):
    """Trace without compiling further, and without validation, as in ``fit``."""
    monkeypatch.setattr(compilation, "inductor", traced)
    with pyro.validation_enabled(False):
        yield
