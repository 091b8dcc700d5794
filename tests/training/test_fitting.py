"""fit: what it accepts, what it returns and writes, what it does to the weights, and what it leaves as it was."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae
from pyro_vae import ELBO, IWAE, training
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.training import validation
from tests.support.batches import left_out
from tests.support.programs import PAIRS, Stream, bits, fit, named, same, vae, weights

X = bits(24)


class Labelled(Dataset):
    """Images with labels; ``train`` and ``valid`` are flags, as torchvision's data sets have them."""

    train, valid = True, False

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], index


class TestData:
    @pytest.mark.parametrize(
        ("data", "num_steps", "validated"),
        [
            (X, 4, False),
            (X.double(), 4, False),
            (X.bool(), 4, False),
            (X.numpy(), 4, False),
            (X[:23], 4, False),
            (pyro_vae.data.load(X).train, 4, False),
            (pyro_vae.data.load(X), 4, True),
            (Labelled(), 4, False),
            (Stream(), 4, False),
            (DataLoader(Labelled(), batch_size=5), 5, False),
            (DataLoader(TensorDataset(X), batch_size=24, shuffle=True), 1, False),
            (DataLoader(X, batch_size=3, drop_last=True, shuffle=True), 8, False),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_every_kind_of_data_is_gone_through_once_an_epoch(self, data, num_steps, validated):
        program = vae()
        before = weights(program)
        with left_out(isinstance(getattr(data, "dataset", data), Labelled)):
            history = fit(program, data, num_epochs=2)
        assert [record["step"] for record in history.records] == [num_steps, 2 * num_steps]
        assert all((record["valid_bound"] is not None) == validated for record in history.records)
        assert all(not torch.equal(before[name], tensor) for name, tensor in weights(program).items())

    def test_a_loader_keeps_its_own_batch_size_whatever_batch_size_says(self):
        with left_out():
            history = fit(vae(), DataLoader(Labelled(), batch_size=4), batch_size=100, num_epochs=1)
        assert history.records[-1]["step"] == 6

    def test_validation_data_can_be_given_and_replace_those_of_the_splits(self):
        splits, other = pyro_vae.data.load(X), bits(5, seed=1)
        program = vae()
        record = fit(program, splits, valid=other, num_epochs=1).records[0]
        assert record["valid_bound"] == mean_bound(program.model, program.guide, other, ELBO(), seed=0)
        assert record["valid_bound"] != mean_bound(program.model, program.guide, splits.valid, ELBO(), seed=0)

    def test_the_programs_move_to_the_device(self, device):
        program = vae()
        fit(program, pyro_vae.data.load(X), device=device, num_epochs=1)
        assert {parameter.device.type for parameter in program.parameters()} == {device.type}


class TestObjectives:
    @pytest.mark.parametrize(
        "objective",
        [
            ELBO(),
            ELBO(num_particles=2, kl="analytic"),
            IWAE(num_particles=2),
            Trace_ELBO(),
            TraceMeanField_ELBO(),
            TraceGraph_ELBO(),
            TraceEnum_ELBO(max_plate_nesting=1),
            RenyiELBO(num_particles=2),
        ],
        ids=named,
    )
    @pytest.mark.parametrize("pair", [pytest.param("bernoulli-mlp", marks=pytest.mark.cross), "hierarchy"])
    def test_any_pyro_bound_trains_every_weight(self, objective, pair):
        model, guide = PAIRS[pair]()
        before = weights(model, guide)
        options = {"num_epochs": 30, "batch_size": 12, "lr": 0.02, "seed": 0, "progress": False, "valid": X}
        records = training.fit(model, guide, X, objective=objective, **options).records
        # 60 Adam steps of 0.02 gain 5 to 7 nats on these data of two patterns (12 starts each, none below 4.6, mostly
        # with a standard deviation of 0.5); a bound that is not maximised stays where it is.
        assert records[-1]["train_bound"] > records[0]["train_bound"] + 1.5
        assert records[-1]["valid_bound"] > records[0]["valid_bound"] + 1.5
        assert all(not torch.equal(before[name], tensor) for name, tensor in weights(model, guide).items())

    def test_our_bound_and_pyros_take_the_same_steps(self, double):
        torch.manual_seed(1)
        ours, pyros = vae(), vae()
        pyros.load_state_dict(ours.state_dict())
        records = fit(ours, X.double(), valid=X.double(), clip_norm=1.0).records
        theirs = fit(pyros, X.double(), valid=X.double(), clip_norm=1.0, objective=Trace_ELBO()).records
        for record, other in zip(records, theirs, strict=True):
            assert record["train_bound"] == pytest.approx(other["train_bound"], rel=1e-12)
            assert record["valid_bound"] == pytest.approx(other["valid_bound"], rel=1e-12)
        torch.testing.assert_close(ours.state_dict(), pyros.state_dict(), rtol=1e-9, atol=1e-12)

    def test_one_step_of_gradient_descent_is_the_gradient_of_the_mean_bound(self, double):
        program = vae()
        before = weights(program)
        torch.manual_seed(5)
        x = X[torch.randperm(len(X))].double()  # the order of the only batch under seed 5
        (-ELBO().bound(program.model, program.guide, x).mean()).backward()
        expected = {f"0.{name}": before[f"0.{name}"] - 0.1 * p.grad for name, p in program.named_parameters()}
        fit(program, X.double(), batch_size=24, num_epochs=1, lr=0.1, optimizer=torch.optim.SGD, seed=5)
        torch.testing.assert_close(weights(program), expected, rtol=1e-10, atol=1e-14)


class TestRecords:
    def test_history_and_metrics_hold_one_record_an_epoch(self, tmp_path):
        program = vae()
        history = fit(program, pyro_vae.data.load(X), batch_size=5, checkpoint=tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert lines == history.records
        assert [record["epoch"] for record in lines] == [1, 2, 3]
        assert [record["step"] for record in lines] == [4, 8, 12]  # 20 data for training
        bounds = {"train_bound", "train_loss", "valid_bound", "valid_loss"}
        keys = {"epoch", "step", "learning_rate", "seconds"} | bounds
        assert all(record.keys() == keys and math.isfinite(record["train_bound"]) for record in lines)
        assert all(
            record[f"{part}_loss"] == -record[f"{part}_bound"] for record in lines for part in ("train", "valid")
        )
        assert [record["learning_rate"] for record in lines] == [0.01] * 3
        assert (history.interrupted, history.stopped_early) == (False, False)
        valid = pyro_vae.data.load(X).valid
        assert lines[-1]["valid_bound"] == mean_bound(program.model, program.guide, valid, ELBO(), seed=0)

    def test_the_train_bound_is_the_mean_over_the_data_not_over_the_batches(self):
        # Batches of 20 and 4; with a learning rate of almost nothing the weights stand still, so the bound is known.
        program = vae()
        torch.manual_seed(3)
        order = torch.randperm(24)
        parts = [ELBO().bound(program.model, program.guide, X[rows]).sum() for rows in (order[:20], order[20:])]
        history = fit(program, batch_size=20, num_epochs=1, lr=1e-12, seed=3)
        assert history.records[0]["train_bound"] == pytest.approx(sum(parts).item() / 24, rel=1e-6)

    def test_the_best_record_is_the_one_with_the_smallest_validation_loss(self):
        records = [{"epoch": i, "valid_loss": loss, "valid_bound": loss} for i, loss in enumerate([3.0, 1.0, 2.0])]
        assert training.History(records).best is records[1]
        assert training.History([{"valid_loss": None}, {"valid_loss": None, "epoch": 2}]).best["epoch"] == 2

    def test_callbacks_are_called_in_order_with_each_record(self):
        seen = []
        callbacks = [lambda record: seen.append((1, record)), lambda record: seen.append((2, record))]
        history = fit(vae(), callbacks=callbacks)
        assert seen == [(i, record) for record in history.records for i in (1, 2)]

    def test_the_tensorboard_callback_logs_every_number(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        history = fit(vae(), pyro_vae.data.load(X), callbacks=[training.tensorboard(tmp_path)])
        events = EventAccumulator(str(tmp_path)).Reload()
        assert set(events.Tags()["scalars"]) == history.records[0].keys() - {"epoch"}
        for name in ("train_bound", "valid_bound"):
            logged = [(event.step, event.value) for event in events.Scalars(name)]
            assert logged == [(r["epoch"], pytest.approx(r[name], rel=1e-6)) for r in history.records]

    def test_the_progress_bar_shows_the_bound_and_the_rate(self, capsys):
        fit(vae(), pyro_vae.data.load(X), progress=True)
        shown = capsys.readouterr().err
        assert "60.0/60.0" in shown and "img/s" in shown and "bound=-" in shown and "valid=-" in shown
        fit(vae())
        assert capsys.readouterr().err == ""


class TestStopping:
    def declining(self, monkeypatch, bounds):
        """Validation bounds as given, epoch by epoch."""
        bounds = iter(bounds)
        monkeypatch.setattr(validation, "mean_estimate", lambda *args, **kwargs: ((b := next(bounds)), b))

    def test_training_stops_when_the_validation_bound_has_not_risen_for_patience_epochs(self, monkeypatch):
        self.declining(monkeypatch, [-5.0, -3.0, -4.0, -3.5, -3.0, 0.0])
        history = fit(vae(), valid=X, patience=3, num_epochs=6)
        assert history.stopped_early
        assert len(history.records) == 5
        assert history.best["epoch"] == 2

    def test_without_patience_all_epochs_are_trained(self, monkeypatch):
        self.declining(monkeypatch, [-1.0, -2.0, -3.0, -4.0])
        history = fit(vae(), valid=X, num_epochs=4)
        assert not history.stopped_early and len(history.records) == 4

    def test_the_checkpoint_is_the_best_epoch_and_the_last_state_the_last(self, monkeypatch, tmp_path):
        self.declining(monkeypatch, [-5.0, -3.0, -4.0])
        program, after = vae(), []
        fit(program, valid=X, checkpoint=tmp_path, callbacks=[lambda record: after.append(weights(program))])
        assert same(weights(pyro_vae.load(tmp_path)), after[1])
        assert same(weights(program), after[2])
        assert not same(after[1], after[2])
        assert {path.name for path in tmp_path.iterdir()} == {
            "checkpoint.safetensors",
            "last.safetensors",
            "metrics.jsonl",
            "program.json",
        }

    def test_without_validation_the_checkpoint_is_the_last_epoch(self, tmp_path):
        program = vae()
        fit(program, checkpoint=tmp_path)
        assert same(weights(pyro_vae.load(tmp_path)), weights(program))
