"""The programs at the means of their sites."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine

from pyro_vae.inference.handlers import AtMeans
from tests.support.programs import HierarchyGuide, HierarchyModel, bits

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture
def x():
    return bits(6).double()


class TestAtMeans:
    def test_each_latent_is_its_mean_given_the_means_before(self, x):
        guide = HierarchyGuide()
        with torch.no_grad(), AtMeans():
            sites = poutine.trace(guide).get_trace(x).nodes
            z1 = guide.lower(x.flatten(1))[:, :3]
            z2 = guide.upper(z1)[:, :2]
        assert torch.equal(sites["z1"]["value"], z1) and torch.equal(sites["z2"]["value"], z2)

    def test_it_draws_nothing_and_leaves_data_plates_and_densities_as_they_are(self, x):
        model = HierarchyModel()
        generator = torch.get_rng_state()
        with AtMeans():
            trace = poutine.trace(model).get_trace(x)
        assert torch.equal(torch.get_rng_state(), generator)
        assert trace.nodes["x"]["value"] is x and trace.nodes["x"]["is_observed"]
        assert torch.equal(trace.nodes["data"]["value"], torch.arange(6))
        assert trace.nodes["z2"]["value"].shape == (6, 2) and (trace.nodes["z2"]["value"] == 0).all()
        trace.compute_log_prob()
        expected = torch.full((6,), -math.log(2 * math.pi))
        torch.testing.assert_close(trace.nodes["z2"]["log_prob"], expected, rtol=0, atol=1e-11)

    def test_what_is_known_stays(self, x):
        known = torch.ones(6, 2)
        with AtMeans():
            trace = poutine.trace(poutine.condition(HierarchyModel(), {"z2": known})).get_trace(x)
        assert trace.nodes["z2"]["value"] is known
