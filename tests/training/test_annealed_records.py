"""What fit reports of an annealed pair: weights, true bounds and annealed losses."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae
from pyro_vae import ELBO, IWAE, anneal_kl
from pyro_vae.evaluation.bounds import mean_bound, mean_estimate
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.schedules import Cosine, Cyclical, Linear
from pyro_vae.training import fitting as training
from tests.support.annealed import STILL, X, column, fit, fresh
from tests.support.programs import named


class TestRecords:
    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            (Linear(8), [0.5, 1.0, 1.0]),
            (Linear(12, start=0.25, end=4.0), [1.5, 2.75, 4.0]),
            (Cosine(8, end=2.0), [1.0, 2.0, 2.0]),
            (Cyclical(8, num_cycles=1, ramp=1.0), [0.5, 1.0, 1.0]),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("objective", [ELBO(), Trace_ELBO()], ids=named)
    def test_the_weight_is_that_at_the_end_of_each_epoch(self, objective, schedule, expected):
        history = fit(anneal_kl(*fresh(), schedule), objective=objective)
        assert column(history, "kl_weight") == pytest.approx(expected, abs=1e-14)
        assert schedule.value.item() == schedule.end

    def test_each_step_is_taken_with_the_weight_of_its_number(self, monkeypatch):
        schedule, seen = Linear(6), []
        original = training.RunState.count_steps

        def count_steps(state, *args):
            seen.append(schedule.value.item())
            original(state, *args)

        monkeypatch.setattr(training.RunState, "count_steps", count_steps)
        fit(anneal_kl(*fresh(), schedule), valid=X, num_epochs=2)
        assert seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])

    @pytest.mark.parametrize("weight", [0.0, 0.3, 4.0])
    def test_bounds_are_true_and_losses_annealed(self, weight, double):
        """By hand, from the terms of the bare pair: the weights stand still and one batch is the whole set."""
        pair, x = fresh(), X.double()
        history = fit(anneal_kl(*pair, weight), x, valid=x, batch_size=24, num_epochs=1, lr=STILL, seed=3)

        def by_hand(data, seed):
            torch.manual_seed(seed)
            terms = trace_pair(ProgramPair(*pair), data() if callable(data) else data).terms()
            log_p_x, ratio = terms["x"].mean().item(), terms["z"].mean().item()
            return log_p_x + ratio, -(log_p_x + weight * ratio)

        record = history.records[0]
        for name, data, seed in (("train", lambda: x[torch.randperm(24)], 3), ("valid", x, 0)):
            bound, loss = by_hand(data, seed)
            assert record[f"{name}_bound"] == pytest.approx(bound, abs=1e-9)
            assert record[f"{name}_loss"] == pytest.approx(loss, abs=1e-9)
        assert record["kl_weight"] == weight

    def test_a_pyro_elbo_reports_the_same(self, double):
        """Its true bound takes a run of its own: where the KL is in closed form, and the likelihood gets no z."""
        pair, x = fresh(), X.double()
        with torch.no_grad():
            for parameter in pair[0].likelihood.network.hidden.parameters():
                parameter.zero_()  # the decoder hears nothing of z
        options = {"valid": x, "batch_size": 24, "num_epochs": 1, "lr": STILL}
        ours = fit(anneal_kl(*pair, 0.3), x, objective=ELBO(kl="analytic"), **options).records[0]
        theirs = fit(anneal_kl(*pair, 0.3), x, objective=TraceMeanField_ELBO(), **options).records[0]
        assert ours.keys() == theirs.keys()
        for name in ("train_bound", "train_loss", "valid_bound", "valid_loss", "kl_weight"):
            assert theirs[name] == pytest.approx(ours[name], abs=1e-9)
        assert abs(ours["train_bound"] + ours["train_loss"]) > 1e-3  # the two are not the same number

    def test_reporting_for_a_pyro_elbo_leaves_batch_statistics_alone(self):
        pair = fresh("tutorial")
        fit(anneal_kl(*pair, 0.3), objective=Trace_ELBO(), num_epochs=1)
        assert pair[0].decoder[1].num_batches_tracked == 4

    @pytest.mark.parametrize("objective", [ELBO(), IWAE(2), Trace_ELBO()], ids=named)
    def test_validation_takes_the_schedule_at_its_end(self, objective):
        pair, schedule = fresh(), Linear(8, start=0.1, end=2.0)
        record = fit(anneal_kl(*pair, schedule), objective=objective, valid=X[:9], num_epochs=2).records[0]
        assert record["kl_weight"] == pytest.approx(1.05)

        pair, schedule = fresh(), Linear(8, start=0.1, end=2.0)  # again, to the end of the first epoch
        measured = []

        def callback(record):
            assert schedule.value.item() == record["kl_weight"]  # validation has put it back
            if record["epoch"] == 1:
                measured.append(mean_bound(*pair, X[:9], objective, batch_size=6, seed=0))
                measured.append(-mean_estimate(*anneal_kl(*pair, 2.0), X[:9], objective, batch_size=6, seed=0)[1])

        fit(anneal_kl(*pair, schedule), objective=objective, valid=X[:9], num_epochs=2, callbacks=[callback])
        if isinstance(objective, pyro_vae.Objective):  # Pyro's is run twice, on other draws
            assert record["valid_bound"] == pytest.approx(measured[0], abs=1e-6)
        assert record["valid_loss"] == pytest.approx(measured[1], abs=1e-5)

    def test_a_tensor_is_reported_as_it_stands(self):
        weight = torch.tensor(0.5)
        history = fit(anneal_kl(*fresh(), weight), callbacks=[lambda record: weight.mul_(0.5)])
        assert column(history, "kl_weight") == [0.5, 0.25, 0.125]

    def test_weights_of_single_sites_are_reported_by_name(self):
        pair = anneal_kl(*anneal_kl(*fresh("hierarchy"), Linear(12), sites=["z1"]), 0.2, sites=["z2"])
        history = fit(pair)
        assert column(history, "kl_weight(z2)") == [0.2] * 3
        assert column(history, "kl_weight(z1)") == pytest.approx([1 / 3, 2 / 3, 1])

    @pytest.mark.parametrize(("capacity", "expected"), [(3.0, [3.0] * 3), (Linear(8, end=4.0), [2.0, 4.0, 4.0])])
    def test_a_capacity_is_moved_on_and_reported(self, capacity, expected):
        pair = fresh()
        objective = ELBO(capacity=capacity, capacity_weight=10.0)
        history = fit(pair, objective=objective, valid=X)
        assert column(history, "capacity") == expected
        assert "kl_weight" not in history.records[0]
        assert history.records[-1]["valid_bound"] == mean_bound(*pair, X, ELBO(), batch_size=6, seed=0)
        assert history.records[-1]["valid_loss"] == -mean_estimate(*pair, X, objective, batch_size=6, seed=0)[1]

    def test_free_bits_report_the_true_bound(self):
        pair = fresh()
        record = fit(pair, objective=ELBO(free_bits=100.0), valid=X).records[-1]
        assert record["valid_bound"] == mean_bound(*pair, X, ELBO(), batch_size=6, seed=0)
        assert record["valid_loss"] > 100 and record["train_loss"] > 100

    def test_metrics_hold_every_field(self, tmp_path):
        objective = ELBO(capacity=1.0)
        history = fit(anneal_kl(*fresh(), Linear(12)), objective=objective, valid=X, checkpoint=tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert lines == history.records
        bounds = {"train_bound", "train_loss", "valid_bound", "valid_loss"}
        assert lines[0].keys() == {"epoch", "step", "learning_rate", "seconds", "kl_weight", "capacity"} | bounds
        assert all(math.isfinite(line[name]) for line in lines for name in bounds)
