"""Mutual information and the aggregate posterior, against closed forms and sums over all pairs of data."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vae
from pyro_vae.diagnostics.diagnosis import diagnose
from pyro_vae.diagnostics.mutual_information import information
from tests.support.codes import pair, standard_normal
from tests.support.programs import PAIRS, bits

EXACT = 1e-10  # float64


class TestInformation:
    def test_four_codes_far_apart(self):
        x = torch.arange(40.0)[:, None] % 4
        found = information(*pair(standard_normal(1), lambda x: dist.Normal(1000 * x, 1.0).to_event(1)), x)
        assert found.mutual_information == pytest.approx(math.log(4), abs=1e-4)
        assert found.mutual_information_error < 1e-4

    def test_different_data_with_codes_far_apart_reach_the_bound(self):
        model, guide = pair(standard_normal(1), lambda x: dist.Normal(1000 * x, 1.0).to_event(1))
        found = information(model, guide, torch.arange(40.0)[:, None], num_data=30, batch_size=7)
        assert found.num_data == 30
        assert found.mutual_information == pytest.approx(math.log(30), abs=1e-4) and found.bound == math.log(30)

    def test_a_guide_that_ignores_the_data_knows_nothing(self):
        model, guide = pair(standard_normal(3), lambda x: dist.Normal(x.new_full((3,), 2.0), 1.0).to_event(1))
        found = information(model, guide, torch.randn(500, 1))
        assert abs(found.mutual_information) < 1e-5 and found.mutual_information_error < 1e-5
        assert abs(found.aggregate_kl - 6.0) < 4 * found.aggregate_kl_error < 1  # 3 · 2² / 2; 1 in 16,000 seeds
        assert found.kl == pytest.approx(found.aggregate_kl, abs=1e-5)

    def test_gaussian_aggregate(self):
        """With x ~ N(0, 3) and q = N(x, 1): q(z) = N(0, 4) and I = ½ log 4; up to O(1/N) for the N data."""
        quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        x = (3**0.5 * torch.special.ndtri(quantiles))[:, None]
        found = information(*pair(standard_normal(1), lambda x: dist.Normal(x, 1.0).to_event(1)), x)
        assert abs(found.mutual_information - 0.5 * math.log(4)) < 4 * found.mutual_information_error + 5e-3
        assert abs(found.aggregate_kl - 0.5 * (4 - 1 - math.log(4))) < 4 * found.aggregate_kl_error + 5e-3
        # Of 3/8 z² + c with z ~ N(0, 4) the standard deviation is √4.5; it is estimated to 6 %, √(14 / 4N): 4 of these
        assert found.aggregate_kl_error == pytest.approx((4.5 / 1000) ** 0.5, rel=0.24)
        assert found.mutual_information_error < found.aggregate_kl_error

    @pytest.mark.parametrize("name", ["hierarchy", "tutorial", "bernoulli-mlp"])
    def test_the_two_add_up_to_the_kl_and_blocks_do_not_matter(self, name, monkeypatch):
        model, guide = (program.double() for program in PAIRS[name]())
        x = bits(23).double() if name != "tutorial" else bits(23).double().flatten(1)
        found = information(model, guide, x, num_data=21)
        assert found.mutual_information + found.aggregate_kl == pytest.approx(found.kl, abs=EXACT)
        assert found.mutual_information <= math.log(21)
        # By hand, with the same draws: every pair of datum and code, one at a time.
        with torch.no_grad(), pyro_vae.runtime.state.evaluating(model, guide):
            torch.manual_seed(0)
            traces = [poutine.trace(guide).get_trace(x[:21])]
            codes = {n: s["value"] for n, s in traces[0].nodes.items() if s["type"] == "sample" and n != "data"}
            log_q = torch.empty(21, 21, dtype=torch.float64)
            for n in range(21):
                given = {site: value[n].expand(21, -1) for site, value in codes.items()}
                log_q[n] = sum(
                    s["fn"].log_prob(s["value"])
                    for site, s in poutine.trace(poutine.condition(guide, given)).get_trace(x[:21]).nodes.items()
                    if site in codes
                )
        pyro.clear_param_store()
        expected = (log_q.diagonal() - log_q.logsumexp(1) + math.log(21)).mean().item()
        assert found.mutual_information == pytest.approx(expected, abs=EXACT)
        monkeypatch.setattr("pyro_vae.diagnostics.mutual_information._BLOCK_ROWS", 60)
        small = information(model, guide, x, num_data=21, batch_size=21)
        assert dataclasses.astuple(small) == pytest.approx(dataclasses.astuple(found), abs=EXACT)

    def test_a_flow_without_inverse_has_none(self):
        flow = dist.transforms.Planar(2)

        def posterior(x):
            return dist.TransformedDistribution(dist.Normal(x.expand(-1, 2), 1.0).to_event(1), [flow])

        found = diagnose(*pair(standard_normal(2), posterior), torch.randn(20, 1))
        assert math.isnan(found.mutual_information) and math.isnan(found.aggregate_kl)
        assert math.isfinite(found.elbo) and found.kl_per_unit["z"].shape == (1,) and found.units == {"z": 2}

    def test_diagnose_reports_it(self):
        model, guide = pair(standard_normal(1), lambda x: dist.Normal(x, 1.0).to_event(1))
        x = torch.randn(100, 1)
        found, split = diagnose(model, guide, x, num_data_mi=50), information(model, guide, x, num_data=50)
        assert (found.mutual_information, found.aggregate_kl) == (split.mutual_information, split.aggregate_kl)
        assert found.mutual_information_bound == math.log(50) and (found.num_data, found.num_data_mi) == (100, 50)


@pytest.mark.parametrize("num_data", [3, 7, 20])
def test_a_plate_inside_of_that_of_the_data_is_found(num_data):
    """As if it had been said; the KL is that of each pixel's Gaussian, in closed form."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("pixels", 7, dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("pixels", 7, dim=-2):
            pyro.sample("z", dist.Normal(x.T / 2, 0.5**0.5))

    x = torch.randn(num_data, 7, dtype=torch.float64)
    found, said = (diagnose(model, guide, x, max_plate_nesting=nesting) for nesting in (1, 2))
    assert found.mutual_information == said.mutual_information and found.aggregate_kl == said.aggregate_kl
    expected = (
        torch.distributions.kl_divergence(dist.Normal(x / 2, 0.5**0.5), dist.Normal(torch.zeros_like(x), 1.0))
        .sum(1)
        .mean()
    )
    assert found.kl["z"] == pytest.approx(expected.item(), rel=1e-12)
