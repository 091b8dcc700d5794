"""Runs that are told to stop, that take long epochs, and that say what of them is slow or not trained."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import M2, VAE, LadderVAE, fit
from pyro_vae.compilation import compiled as compilation
from pyro_vae.training import decisions
from pyro_vae.training.run_state import RunState
from tests.support.programs import weights

X = torch.bernoulli(torch.full((24, 4), 0.5), generator=torch.Generator().manual_seed(0))


def vae():
    torch.random.default_generator.manual_seed(0)
    return VAE((4,), 2, (5,))


def train(program, data=X, **options):
    options = {"num_epochs": 2, "batch_size": 6, "seed": 0, "progress": False} | options
    return fit(program.model, program.guide, data, **options)


class Signalling(TensorDataset):
    """The data, with a signal to the process when number ``at`` is read."""

    def __init__(self, number, at):
        super().__init__(X)
        self.number, self.at, self.count = number, at, 0

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_step_is_finished_and_the_run_goes_on_to_the_same_weights(self, number, tmp_path):
        before = signal.getsignal(number)
        expected, program = vae(), vae()
        train(expected, DataLoader(TensorDataset(X), batch_size=6))
        history = train(program, DataLoader(Signalling(number, 31), batch_size=6), checkpoint=tmp_path)
        assert history.interrupted and len(history.records) == 1 and signal.getsignal(number) is before
        resumed = vae()
        train(resumed, DataLoader(TensorDataset(X), batch_size=6), checkpoint=tmp_path, resume=True)
        found = weights(resumed)
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights(expected).items())

    def test_a_second_sigterm_does_not_wait(self):
        def twice(record):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(SystemExit) as caught:
            train(vae(), callbacks=[twice])
        assert caught.value.code == 128 + signal.SIGTERM

    def test_a_handler_of_ones_own_is_left_to_its_work(self):
        received = []
        before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        try:
            history = train(vae(), callbacks=[lambda record: os.kill(os.getpid(), signal.SIGTERM)])
        finally:
            signal.signal(signal.SIGTERM, before)
        assert len(received) == 2 and not history.interrupted

    def test_validation_is_left_too_and_taken_up_again(self, tmp_path):
        valid = DataLoader(Signalling(signal.SIGTERM, 24 + 12), batch_size=6)  # the check reads six, validation 24
        expected, program, resumed = vae(), vae(), vae()
        train(expected, valid=X)
        history = train(program, valid=valid, checkpoint=tmp_path)
        assert history.interrupted and len(history.records) == 1
        records = train(resumed, valid=X, checkpoint=tmp_path, resume=True).records
        assert len(records) == 2
        found = weights(resumed)
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights(expected).items())


class TestTime:
    def test_the_state_is_written_within_an_epoch(self, tmp_path, monkeypatch):
        positions = []

        def write(self, folder):
            positions.append((self.epoch, self.epoch_step))
            original(self, folder)

        original = RunState.write
        monkeypatch.setattr(RunState, "write", write)
        train(vae(), checkpoint=tmp_path, checkpoint_seconds=1e-9)
        within = [(epoch, step) for epoch in (0, 1) for step in (1, 2, 3, 4)]
        assert [position for position in positions if position[1]] == within
        positions.clear()
        train(vae(), checkpoint=tmp_path / "hourly", checkpoint_seconds=3600)
        assert [position for position in positions if position[1]] == []

    def test_after_divergence_the_state_is_that_of_the_last_good_epoch(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decisions, "_SECONDS_BETWEEN_READS", float("inf"))
        with pytest.raises(FloatingPointError):
            train(vae(), checkpoint=tmp_path, checkpoint_seconds=1e-9, lr=lambda done: 1e38 if done > 0.6 else 1e-3)
        resumed = vae()
        train(resumed, checkpoint=tmp_path, resume=True, lr=lambda done: 1e-3)
        assert all(tensor.isfinite().all() for tensor in weights(resumed).values())


class Branching(nn.Module):
    """A network that decides by the values of its tensors."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        return self.network(z) if z.sum() > 0 else self.network(-z)


class TestFallback:
    def test_it_stands_in_the_history_and_in_the_metrics(self, tmp_path):
        program = vae()
        program.model.likelihood.network = Branching(program.model.likelihood.network)
        program.model.recipe = program.guide.recipe = None
        with pytest.warns(UserWarning, match="is not compiled: it reads the value of a tensor"):
            history = train(program, valid=X, compile=True, checkpoint=tmp_path)
        reason = "it reads the value of a tensor in Python, by Tensor.__bool__"
        expected = f"the training step is not compiled: {reason}; the validation is not compiled: {reason}"
        assert history.fallback == expected
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["fallback"] for line in lines] == [expected] * 2

    def test_an_objective_of_pyro(self):
        with pytest.warns(UserWarning, match="found Trace_ELBO, expected an objective of pyro_vae"):
            history = train(vae(), compile=True, objective=Trace_ELBO())
        assert "found Trace_ELBO" in history.fallback

    def test_a_hook_of_a_parameter(self, monkeypatch):
        monkeypatch.setattr(compilation, "inductor", lambda graph, inputs: graph)
        program = vae()
        next(program.parameters()).register_hook(lambda gradient: 2 * gradient)
        with pytest.warns(UserWarning, match="the training step is not compiled: a parameter has a hook"):
            assert "a parameter has a hook" in train(program, compile=True).fallback

    def test_there_is_none_where_all_is_compiled_or_nothing_was_to_be(self, monkeypatch):
        monkeypatch.setattr(compilation, "inductor", lambda graph, inputs: graph)
        for compiled in (True, False):
            history = train(vae(), valid=X, compile=compiled)
            assert history.fallback is None and "fallback" not in history.records[-1]


class TestUntrained:
    def test_a_classifier_that_no_label_is_asked_of_is_named(self):
        m2 = M2((4,), 3, 2, (5,))
        data = m2.pack(X, torch.arange(24) % 3)
        with pytest.warns(UserWarning, match=r"no gradient of 4 parameters .*guide\.classifier\..*ELBO\(num_part"):
            fit(m2.model, m2.guide, data, num_epochs=1, batch_size=6, progress=False)

    def test_what_is_frozen_or_trained_is_not(self):
        program = vae()
        next(program.parameters()).requires_grad_(False)
        train(program)  # a warning would be an error


class TestLastBatch:
    def ladder(self):
        return LadderVAE((4,), (3, 2), (5,), batch_norm=True)

    @pytest.mark.parametrize(("data", "batch_size"), [(X[:13], 6), (X[:1], 1), (DataLoader(X[:13], batch_size=4), 100)])
    def test_one_datum_is_refused_before_training(self, data, batch_size, tmp_path):
        ladder = self.ladder()
        before = weights(ladder)
        with pytest.raises(ValueError, match=r"^batch_size: found one that leaves a last batch of 1 of (13|1) data"):
            train(ladder, data, batch_size=batch_size, checkpoint=tmp_path / "run")
        after = weights(ladder)
        assert all(torch.equal(before[name], after[name]) for name in before) and not (tmp_path / "run").exists()

    @pytest.mark.parametrize("data", [X[:14], DataLoader(X[:13], batch_size=6, drop_last=True)])
    def test_other_sizes_are_taken(self, data):
        assert len(train(self.ladder(), data).records) == 2

    def test_without_batch_normalisation_one_datum_is_enough(self):
        assert len(train(vae(), X[:13]).records) == 2


def test_pyros_enumeration_trains_what_svi_trains():
    from pyro.infer import TraceEnum_ELBO

    torch.random.default_generator.manual_seed(0)
    m2 = M2((4,), 3, 2, (5,))
    history = fit(
        m2.model, m2.guide, X, objective=TraceEnum_ELBO(max_plate_nesting=1), num_epochs=3, batch_size=6, lr=0.05,
        progress=False,
    )  # fmt: skip
    assert history.records[-1]["train_bound"] > history.records[0]["train_bound"]


def test_float_labels_are_taken(tmp_path):
    splits = pyro_vae.data.load(X, labels=(torch.arange(24) % 3).double())
    assert splits.train.labels.dtype == torch.int64
    m2 = M2((4,), 3, 2, (5,))
    y = torch.arange(24) % 3
    assert torch.equal(m2.pack(X, y.float()), m2.pack(X, y))
    assert m2.sample(2, y=1.0).shape == (2, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_labels_survive_data_in_half_precision(dtype):
    m2 = M2((4,), 600, 2, (5,))
    y = torch.tensor([0, 257, 511, 599])
    packed = m2.pack(X[:4].to(dtype), y)
    assert packed.dtype == torch.float32 and torch.equal(packed[:, -1].long(), y)
    if dtype == torch.bfloat16:
        with pytest.raises(ValueError, match=r"^x: found labels of 600 classes packed in torch.bfloat16, which rounds"):
            m2.model(packed.to(dtype))


def test_what_a_killed_write_left_is_removed_on_resume(tmp_path):
    train(vae(), num_epochs=1, checkpoint=tmp_path)
    left = tmp_path / ".last.safetensors.unfinished-k3j2.safetensors"
    left.write_bytes(b"half")
    (tmp_path / ".mine").write_text("kept")
    train(vae(), num_epochs=2, checkpoint=tmp_path, resume=True)
    assert not left.exists() and (tmp_path / ".mine").exists()
