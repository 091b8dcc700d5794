"""Pyro's arguments, as the replacements hand them on."""

from __future__ import annotations

import math

import pytest

import pyro_vae
from tests.pyro import replacing


class WithChoice(pyro_vae.ELBO):
    def __init__(self, num_particles=1, *, vectorize_particles="auto", max_plate_nesting=1):
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)
        self.choice = vectorize_particles


class Replaced(replacing.Replacement, WithChoice):
    pass


@pytest.mark.parametrize("given, taken", [({}, False), ({"vectorize_particles": True}, True)])
def test_a_bound_that_takes_it_is_told_whether_to_vectorise_particles(given, taken):
    assert Replaced(**given).choice is taken  # Pyro's default is one after the other


@pytest.mark.parametrize("nesting, taken", [(0, 1), (1, 1), (3, 3), (math.inf, 1)])
def test_plates_are_at_least_the_one_of_the_data(nesting, taken):
    assert replacing.Trace_ELBO(max_plate_nesting=nesting).max_plate_nesting == taken


def test_the_bounds_behind_the_names():
    assert replacing.Trace_ELBO().kl == replacing.TraceGraph_ELBO().kl == "sample"
    assert replacing.TraceMeanField_ELBO().kl == "analytic"
    assert replacing.RenyiELBO().alpha == 0.0 and replacing.RenyiELBO(alpha=0.2, num_particles=3).num_particles == 3
    assert replacing.ReweightedWakeSleep().guide_phase == "wake"


def test_an_argument_that_neither_has_is_refused():
    with pytest.raises(TypeError, match="no_argument"):
        replacing.Trace_ELBO(no_argument=1)
