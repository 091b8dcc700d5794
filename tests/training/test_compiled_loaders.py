"""Compiled updates on the batches of loaders, against runs that are not compiled, in float64."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae
from pyro_vae.compilation import compiled as compilation
from pyro_vae.data import Stored
from pyro_vae.training import block_length, compiled_update
from pyro_vae.training.compiled_update import CompiledUpdate
from tests.training.test_compiled_update import X, check, run
from tests.training.test_resume import interrupt

pytestmark = pytest.mark.usefixtures("only_traced")


@pytest.fixture
def calls(monkeypatch):
    """The number of steps of each call of an update, and whether kernels took them."""
    found, original, inner = [], CompiledUpdate.__call__, CompiledUpdate._run

    def call(self, picks, *args):
        found.append([len(picks), False])
        return original(self, picks, *args)

    def run_kernels(self, *args):
        found[-1][1] = True
        inner(self, *args)

    monkeypatch.setattr(CompiledUpdate, "__call__", call)
    monkeypatch.setattr(CompiledUpdate, "_run", run_kernels)
    return found


class Noisy(Dataset):
    """Rows with a pixel that is drawn from torch's generator whenever one is read, as data are augmented."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return torch.cat([X[index, :-1], torch.bernoulli(torch.full((1,), 0.5, dtype=X.dtype))])


class Labelled(nn.Module):
    """A pair of programs with a label as second argument and an option as third, which are not of this package."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.shift = nn.Linear(6, 4), nn.Linear(2, 6), nn.Embedding(3, 6)

    def model(self, x, y, scale):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            logits = self.decoder(z) + scale * self.shift(y)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y, scale):
        with pyro.plate("data", len(x), dim=-1):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(scale) + 0.1).to_event(1))


class Half(PyroModule):
    """One of the two programs."""

    def __init__(self, pair, program):
        super().__init__()
        self.pair, self.program = pair, program

    def forward(self, x, y, scale):
        self.program(x, y, scale)


def stored(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    return Stored(tmp_path / "x.npy", window_bytes=64 * X[0].numpy().nbytes)


def test_draws_of_the_data_set_and_of_the_programs_keep_their_order(calls):
    """A loader of one's own is asked for a batch when the step before is done."""
    expected = run(False, data=DataLoader(Noisy(), 10, shuffle=True))
    check(run(True, data=DataLoader(Noisy(), 10, shuffle=True)), expected)
    assert {length for length, _ in calls} == {1} and sum(compiled for _, compiled in calls) == 4 * 6 - 1


def test_batches_of_data_on_disk_are_taken_in_blocks(calls, tmp_path):
    check(run(True, data=stored(tmp_path)), run(False, data=stored(tmp_path)))
    assert max(length for length, _ in calls) > 1
    assert sum(length for length, compiled in calls if compiled) == 4 * 6 - 1


def test_blocks_are_as_long_as_memory_and_workers_let_them_be(calls, tmp_path, monkeypatch):
    run(True, data=Stored(stored(tmp_path).opened, num_workers=1))
    assert {length for length, _ in calls} == {1}  # workers read on while a step is taken
    calls.clear()
    monkeypatch.setattr(compiled_update, "_BYTES", 3 * X[:10].numpy().nbytes)
    run(True, data=stored(tmp_path))
    assert max(length for length, _ in calls) == 3


def test_a_block_takes_a_tenth_of_a_second_with_its_reads(monkeypatch):
    """Steps of a millisecond, whose batches take 24 to read."""
    length, found = block_length.BlockLength(torch.device("cpu")), []
    for num_steps, started, end in (1, 0.0, 0.001), (1, 0.025, 0.026), (4, 0.122, 0.126):
        with monkeypatch.context() as patch:
            patch.setattr(block_length.time, "perf_counter", lambda end=end: end)
            length.ended(num_steps, started, is_read=True)
        found.append(length.number)
    assert found == [1, 4, 4]


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_compiled_run_on_data_on_disk_resumes_bit_by_bit(at, tmp_path, monkeypatch):
    def train(**options):
        torch.manual_seed(0)
        vae = pyro_vae.VAE((6,), 2, (5,)).double()
        options = {"num_epochs": 3, "batch_size": 10, "seed": 3, "compile": True, "progress": False} | options
        history = pyro_vae.fit(vae.model, vae.guide, stored(tmp_path), **options)
        return history, list(vae.parameters())

    _, expected = train()
    with monkeypatch.context() as patch:
        original, done = pyro_vae.training.fitting.RunState.count_steps, []

        def count_steps(state, *args):
            original(state, *args)
            done.append(args)
            if len(done) == at:
                interrupt()

        patch.setattr(pyro_vae.training.fitting.RunState, "count_steps", count_steps)
        history, _ = train(checkpoint=tmp_path / "run")
    assert history.interrupted
    _, found = train(checkpoint=tmp_path / "run", resume=True)
    assert all(map(torch.equal, found, expected))


def test_several_arguments_and_options_of_a_batch(calls):
    """An option of another value takes another graph."""
    y = torch.arange(len(X)) % 3

    def collated(rows):
        x, y = (torch.stack(each) for each in zip(*rows, strict=True))
        return x, y, 0.5 if y[0] == 0 else 2.0

    def train(compile):
        torch.manual_seed(0)
        pair = Labelled().double()
        loader = DataLoader(TensorDataset(X, y), 8, collate_fn=collated)
        options = {"num_epochs": 3, "lr": 0.01, "seed": 3, "compile": compile, "progress": False}
        history = pyro_vae.fit(Half(pair, pair.model), Half(pair, pair.guide), loader, **options)
        return [p.detach().clone() for p in pair.parameters()], history.records

    found, number = train(True), len(calls)
    check(found, train(False))
    assert number == 24 and sum(compiled for _, compiled in calls) > 12


def test_batches_of_any_size(calls):
    """Of items that are batches the first one's size is compiled for; the others are updated with as they are."""
    batches = [X[:12], X[60:], *X[12:60].split(12), X[:12]]
    check(run(True, data=DataLoader(batches, None)), run(False, data=DataLoader(batches, None)))
    assert sum(compiled for _, compiled in calls) == 4 * 6 - 1


def test_a_program_that_cannot_be_compiled_reads_each_batch_once(monkeypatch):
    def refuse(*args):
        raise compilation.UntraceableError("of the test")

    monkeypatch.setattr(compilation, "trace", refuse)
    reads = []
    original = pyro_vae.data.batches.Batches.read
    monkeypatch.setattr(pyro_vae.data.batches.Batches, "read", lambda *a: reads.append(1) or original(*a))
    with pytest.warns(UserWarning, match="the training step is not compiled: of the test"):
        found = run(True, data=DataLoader(X, 10))
    assert len(reads) <= 4 * 7 + 2 and found[1][-1]["fallback"]
