"""Which layers a diagnosis warns of, and in which words."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.diagnostics.diagnosis import diagnose
from tests.support.codes import pair, standard_normal


class TestWarnings:
    def warnings(self, loc: float, scale: float, moves: float) -> list[str]:
        model, guide = pair(standard_normal(1), lambda x: dist.Normal(loc + moves * x, scale).to_event(1))
        return diagnose(model, guide, torch.randn(100, 1), num_data_mi=5).warnings

    def test_a_layer_in_use_has_none(self):
        assert self.warnings(0.0, 0.5, 1.0) == []

    def test_a_layer_at_its_prior(self):
        (sentence,) = self.warnings(0.0, 1.0, 0.0)
        assert "'z'" in sentence and "0.000 nats" in sentence and "0 of its 1 units" in sentence
        assert "returns the prior" in sentence

    def test_a_layer_that_costs_and_does_not_move(self):
        (sentence,) = self.warnings(2.0, 1.0, 0.0)
        assert "2.000 nats" in sentence and "0 of its 1 units" in sentence and "does not move with the data" in sentence

    def test_a_layer_that_moves_by_next_to_nothing(self):
        (sentence,) = self.warnings(0.0, 1.0, 0.2)
        assert "1 of its 1 units" in sentence and "stays close to what the model expects" in sentence

    def test_only_the_layer_that_has_collapsed_is_named(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("z1", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z1", dist.Normal(x, 0.1).to_event(1))
                pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

        found = diagnose(model, guide, torch.randn(100, 1), num_data_mi=5)
        assert list(found.kl) == ["z2", "z1"] == list(found.activity)  # in the model's order
        assert [sentence.split("'")[1] for sentence in found.warnings] == ["z2"]
