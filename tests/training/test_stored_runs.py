"""Runs on data that stay on disk: the same as in memory in the same order, resumed, with workers, in little memory."""

from __future__ import annotations

import gc
import math
import multiprocessing
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.data import Stored, opening
from pyro_vae.data.block_order import BlockSampler
from pyro_vae.data.storages import RawFiles
from tests.support.programs import PAIRS, bits, same, weights
from tests.training.test_resume import interrupt

N, B = 210, 20
X = bits(N)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    return tmp_path / "x.npy"


def stored(path, num_workers=0):
    row = X[0].numel() * 4
    found = Stored(path, window_bytes=64 * row, num_workers=num_workers)  # blocks of one row, windows of 64
    assert found.block_bytes == row
    return found


def train(data, **options):
    torch.manual_seed(7)
    pair = PAIRS["bernoulli-mlp"]()
    options = {"num_epochs": 3, "batch_size": B, "lr": 0.01, "seed": 0, "progress": False} | options
    history = pyro_vae.fit(*pair, data, **options)
    return history, weights(*pair)


def interrupting(monkeypatch, at):
    """Send Ctrl-C after so many steps."""
    original, done = pyro_vae.training.fitting.RunState.count_steps, [0]

    def count_steps(state, *args):
        original(state, *args)
        done[0] += 1
        if done[0] == at:
            interrupt()

    monkeypatch.setattr(pyro_vae.training.fitting.RunState, "count_steps", count_steps)


def test_a_run_is_that_of_the_same_order_in_memory(path):
    _, found = train(stored(path))
    sampler = BlockSampler(np.arange(N + 1), window=32, batch_size=B)  # half of what is held: one is read ahead
    _, expected = train(DataLoader(TensorDataset(X), B, sampler=sampler))
    assert same(found, expected)


@pytest.mark.parametrize(
    ("num_workers", "at"),
    [(0, 3), (0, 11 + 5), (0, 22), (2, 11 + 5), *(pytest.param(2, at, marks=pytest.mark.cross) for at in (3, 22))],
)
def test_a_run_resumes_bit_by_bit(path, tmp_path, monkeypatch, num_workers, at):
    _, expected = train(stored(path, num_workers))
    with monkeypatch.context() as patch:
        interrupting(patch, at)
        history, _ = train(stored(path, num_workers), checkpoint=tmp_path / "run")
    assert history.interrupted
    _, found = train(stored(path, num_workers), checkpoint=tmp_path / "run", resume=True)
    assert same(found, expected)


def test_batches_that_were_used_are_not_read_again(path, tmp_path, monkeypatch):
    read = []
    original = RawFiles.fill
    monkeypatch.setattr(
        RawFiles, "fill", lambda self, start, stop, out: (read.append(start), original(self, start, stop, out))
    )
    options = {"num_epochs": 1, "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        interrupting(patch, 8)
        train(stored(path), **options)
    assert len(read) < N
    read.clear()
    train(stored(path), **options, resume=True)
    assert len(read) <= B + 50 + 3  # a first batch to check the programs on, the last three, and rows to compare
    read.clear()
    train(stored(path), num_epochs=2)
    assert len(read) <= 2 * N + B  # nor twice for a check


def test_a_run_goes_on_in_the_same_order_alone(path, tmp_path):
    train(stored(path), num_epochs=1, checkpoint=tmp_path / "run")
    for other in (stored(path, 2), X):
        with pytest.raises(
            ValueError, match=r"^order: found .*, expected 210 blocks shuffled in windows of 32 as in the"
        ):
            train(other, checkpoint=tmp_path / "run", resume=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_number_that_is_none_is_named_by_its_file_and_row(tmp_path, num_workers):
    for index, part in enumerate(X.clone().split(70)):
        part[11, 2, 3] = float("nan") if index == 2 else 1.0
        np.save(tmp_path / f"part{index}.npy", part.numpy())
    data = Stored(tmp_path, window_bytes=64 * 64, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"^part2.npy, row 11, entry \(2, 3\): found nan, expected finite numbers$"):
        train(data)
    with pytest.raises(ValueError, match=r"^part2.npy, row 11"):
        pyro_vae.log_likelihood(*PAIRS["bernoulli-mlp"](), data, 2)


def test_workers_end_with_a_run_that_fails(tmp_path):
    """By the number of references alone: torch takes 5 s to end a worker that the garbage collector has found."""
    np.save(tmp_path / "x.npy", X.clone().index_fill_(0, torch.tensor(150), math.nan).numpy())
    gc.disable()
    try:
        with suppress(ValueError):
            train(stored(tmp_path / "x.npy", 2))
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_everything_that_scores_takes_it(path, monkeypatch):
    monkeypatch.setattr(opening, "total_memory", lambda: 1)
    pair = PAIRS["bernoulli-mlp"]()
    for data in (stored(path), np.load(path, mmap_mode="r"), path):
        found, expected = (pyro_vae.log_likelihood(*pair, x, 5, seed=0, batch_size=50) for x in (data, X))
        assert torch.equal(found.values, expected.values)
    options = {"num_particles": 5, "num_data": 60, "num_refined": 0, "annealed": False, "progress": False}
    found, expected = (pyro_vae.evaluate(*pair, x, **options) for x in (data, X))
    assert found["log_p"].mean == expected["log_p"].mean
    found, expected = (pyro_vae.diagnose(*pair, x, num_data_mi=50) for x in (data, X))
    assert found.elbo == expected.elbo and found.kl == expected.kl


def test_what_is_held_is_said_in_one_line(path, capsys):
    train(stored(path), num_epochs=1, progress=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Stored(")]
    assert "at most 4 KiB of them in memory, 210 blocks shuffled in windows of 32, read by this process" in line


def test_a_value_outside_of_the_support_is_named_by_its_file_and_row(tmp_path):
    x = X.clone()
    x[123, 1, 2] = 3.0
    np.save(tmp_path / "x.npy", x.numpy())
    with pytest.raises(ValueError, match=r"^x.npy, row 123: data: found the value 3 at \(0, 1, 2\), outside the supp"):
        train(stored(tmp_path / "x.npy"))
    with pytest.raises(ValueError, match=r"^x.npy, row 123: x: found the value 3 at \(0, 1, 2\), outside the support"):
        pyro_vae.log_likelihood(*PAIRS["bernoulli-mlp"](), stored(tmp_path / "x.npy"), 2)
    train_split = pyro_vae.data.load(tmp_path / "x.npy", in_memory=False).train
    assert 123 in train_split.rows
    with pytest.raises(ValueError, match=r"^x.npy, row 123: data: found the value 3"):
        train(train_split)
