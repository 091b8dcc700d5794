"""Ctrl-C, and going on: a run that was interrupted ends with the weights, bit by bit, of one that was not."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import pyro_vae
from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.training import fitting as training
from pyro_vae.training import validation
from tests.support.pairwise import in_turn
from tests.support.programs import PAIRS, bits, same, vae, weights

X = bits(24)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


class Interrupting(Dataset):
    """The data, with Ctrl-C when number ``at`` is read, counted over all epochs and the check before the first."""

    def __init__(self, at=None):
        self.at = at
        self.count = 0

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.at:
            interrupt()
        return X[index]


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def milestones(optimizer):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2, 4], gamma=0.3)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)


def fit(pair, data=X, **options):
    options = {"num_epochs": 5, "batch_size": 6, "lr": 0.01, "seed": 0, "progress": False} | options
    return training.fit(*pair, data, **options)


def fresh(name):
    """The same untrained pair at each call."""
    torch.manual_seed(7)
    return PAIRS[name]()


RUNS = (
    ("bernoulli-mlp", "splits", {}),
    ("bernoulli-mlp", "splits", {"optimizer": momentum, "scheduler": milestones, "clip_norm": 1.0}),
    ("bernoulli-mlp", "loader", {"lr": lambda fraction: 0.01 * (1 - fraction)}),
    ("tutorial", "loader", {"optimizer": momentum, "scheduler": cosine}),
    ("hierarchy", "loader", {"objective": pyro_vae.IWAE(num_particles=2), "valid": X[:5]}),
)


@pytest.mark.parametrize(("run", "where"), in_turn(RUNS, ["mid-epoch", "last step", "epoch end", "every epoch"]))
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(run, where, tmp_path):
    name, kind, options = run

    def data():
        # At every use the splits draw new bits, and the loader a new order: generators must be restored exactly.
        if kind == "splits":
            return pyro_vae.data.load(X * 0.8 + 0.1, binarize="dynamic")
        return DataLoader(X, batch_size=6, shuffle=True)

    expected = fresh(name)
    whole = fit(expected, data(), **options)
    num_steps = whole.records[0]["step"]
    steps = []  # Ctrl-C when so many steps of the run are done
    if where != "epoch end":
        steps = {"mid-epoch": [num_steps + 2], "last step": [2 * num_steps], "every epoch": [1, 6, 11, 16]}[where]
    callbacks = [lambda record: interrupt() if record["epoch"] == 2 else None] if where == "epoch end" else []

    pair, counter = fresh(name), {"step": 0}
    original = training.RunState.count_steps

    def count_steps(state, *args):
        original(state, *args)
        counter["step"] += 1
        if counter["step"] in steps:
            interrupt()

    torch.manual_seed(99)  # nothing may hang on the caller's generator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.RunState, "count_steps", count_steps)
        history = fit(pair, data(), checkpoint=tmp_path, callbacks=callbacks, **options)
        resumed = 0
        while history.interrupted:
            pair = PAIRS[name]()  # another process would start from other weights
            history = fit(pair, data(), checkpoint=tmp_path, resume=True, **options)
            resumed += 1
    assert resumed == max(len(steps), 1)
    assert same(weights(*pair), weights(*expected))

    def without_seconds(records):
        return [{key: value for key, value in record.items() if key != "seconds"} for record in records]

    assert without_seconds(history.records) == without_seconds(whole.records)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.records


class TestInterruption:
    @pytest.mark.parametrize("at", [7, 20])  # the first six are read by the check before training
    def test_ctrl_c_while_a_batch_is_read_finishes_that_step_and_leaves_a_checkpoint(self, at, tmp_path):
        program = vae()
        history = fit((program.model, program.guide), Interrupting(at), checkpoint=tmp_path)
        assert history.interrupted and history.records == []
        tensors, metadata = read_tensors(tmp_path / "last.safetensors")
        assert json.loads(metadata["run"])["position"]["step"] == -(-at // 6)
        assert same(weights(pyro_vae.load(tmp_path)), weights(program))
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())

    def test_the_handler_of_the_caller_is_given_back(self):
        program, before = vae(), signal.getsignal(signal.SIGINT)
        inside = []
        fit((program.model, program.guide), callbacks=[lambda record: inside.append(signal.getsignal(signal.SIGINT))])
        assert before not in inside
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_second_ctrl_c_does_not_wait(self):
        program, before = vae(), signal.getsignal(signal.SIGINT)

        def callback(record):
            interrupt()
            interrupt()

        with pytest.raises(KeyboardInterrupt):
            fit((program.model, program.guide), callbacks=[callback])
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_thread_that_gets_no_signals_trains_too(self):
        program, histories = vae(), []
        thread = threading.Thread(target=lambda: histories.append(fit((program.model, program.guide))))
        thread.start()
        thread.join()
        assert len(histories[0].records) == 5


class TestResuming:
    def test_more_epochs_continue_a_finished_run(self, tmp_path):
        expected, pair = fresh("bernoulli-mlp"), fresh("bernoulli-mlp")
        fit(expected, num_epochs=5)
        fit(pair, num_epochs=3, checkpoint=tmp_path)
        history = fit(pair, num_epochs=5, checkpoint=tmp_path, resume=True)
        assert [record["epoch"] for record in history.records] == [1, 2, 3, 4, 5]
        assert same(weights(*pair), weights(*expected))

    def test_a_finished_run_resumed_changes_nothing_but_loads_its_weights(self, tmp_path):
        pair, other = fresh("bernoulli-mlp"), PAIRS["bernoulli-mlp"]()
        fit(pair, num_epochs=2, checkpoint=tmp_path)
        before = (tmp_path / "metrics.jsonl").read_bytes()
        history = fit(other, num_epochs=2, checkpoint=tmp_path, resume=True)
        assert len(history.records) == 2 and not history.interrupted
        assert same(weights(*other), weights(*pair))
        assert (tmp_path / "metrics.jsonl").read_bytes() == before

    def test_a_run_that_stopped_early_stays_stopped(self, tmp_path, monkeypatch):
        monkeypatch.setattr(validation, "mean_estimate", lambda *args, **kwargs: (-1.0, -1.0))  # never rises
        pair = fresh("bernoulli-mlp")
        assert fit(pair, valid=X, patience=2, checkpoint=tmp_path).stopped_early
        history = fit(pair, valid=X, patience=2, checkpoint=tmp_path, resume=True)
        assert history.stopped_early and len(history.records) == 3

    def test_the_best_epoch_before_the_interruption_stays_the_best(self, tmp_path, monkeypatch):
        bounds = iter([-1.0, -3.0, -2.0])
        monkeypatch.setattr(validation, "mean_estimate", lambda *args, **kwargs: ((b := next(bounds)), b))
        pair = fresh("bernoulli-mlp")
        fit(pair, valid=X, num_epochs=1, checkpoint=tmp_path)
        best = weights(*pair)
        history = fit(pair, valid=X, num_epochs=3, checkpoint=tmp_path, resume=True)
        assert history.best["epoch"] == 1
        loaded = pyro_vae.load(tmp_path)
        assert same(weights(loaded.model, loaded.guide), best)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_size": 8}, "batch_size: found 8, expected 6 as in the run in "),
            ({"data": X[:20]}, "num_data: found 20, expected 24 as in the run in "),
            ({"data": DataLoader(X, batch_size=4)}, "batch_size: found 4, expected 6 as in the run in "),
            ({"optimizer": torch.optim.SGD}, "optimizer: found SGD, expected Adam as in the run in "),
            ({"scheduler": cosine}, "scheduler: found CosineAnnealingLR, expected NoneType as in the run in "),
            (
                {"pair": "bernoulli-convolutional"},
                r"last.safetensors: leaf 'guide\.posterior\.network\.hidden\.0\.bias': found \(5,\), expected nothing",
            ),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_another_run_is_not_resumed_and_nothing_is_lost(self, change, message, tmp_path):
        fit(fresh("bernoulli-mlp"), num_epochs=1, checkpoint=tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        pair = fresh(change.pop("pair", "bernoulli-mlp"))
        untouched = weights(*pair)
        with pytest.raises(ValueError, match=message):
            fit(pair, **({"data": X} | change), checkpoint=tmp_path, resume=True)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert same(weights(*pair), untouched)

    def test_a_folder_without_a_run_cannot_be_resumed(self, tmp_path):
        message = f"found no last.safetensors in {tmp_path / 'new'}, expected a folder"
        with pytest.raises(FileNotFoundError, match=message):
            fit(fresh("bernoulli-mlp"), checkpoint=tmp_path / "new", resume=True)
        assert list(tmp_path.iterdir()) == []

    def test_a_run_without_a_folder_cannot_go_on(self):
        with pytest.raises(ValueError, match="^resume: found True without a checkpoint, expected checkpoint="):
            fit(PAIRS["tutorial"](), resume=True)

    def test_a_file_that_is_no_run_is_refused(self, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        (tmp_path / "checkpoint.safetensors").rename(tmp_path / "last.safetensors")
        with pytest.raises(ValueError, match="last.safetensors: not the state of a training run"):
            fit(fresh("bernoulli-mlp"), checkpoint=tmp_path, resume=True)

    @pytest.mark.parametrize("kind", ["a run", "a saved program"])
    def test_a_folder_that_holds_another_run_is_left_alone(self, kind, tmp_path):
        if kind == "a run":
            fit(fresh("bernoulli-mlp"), num_epochs=1, checkpoint=tmp_path)
        else:
            pyro_vae.save(vae(), tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        pair = fresh("bernoulli-mlp")
        untouched = weights(*pair)
        with pytest.raises(FileExistsError, match=f"checkpoint: found another run in {tmp_path}, expected resume=True"):
            fit(pair, checkpoint=tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert same(weights(*pair), untouched)
