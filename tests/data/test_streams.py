"""Data that can be gone through only once: no batch is lost to a check, and an empty pass is named."""

from __future__ import annotations

import signal

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from pyro_vae import VAE, diagnose, fit, log_likelihood
from pyro_vae.data.conversion import as_batches
from tests.support.programs import weights

X = torch.bernoulli(torch.full((95, 4), 0.5), generator=torch.Generator().manual_seed(0))


class Once(IterableDataset):
    """A stream that has been read when it has been read."""

    def __init__(self):
        self.rows = iter(X)

    def __iter__(self):
        return self.rows


class Again(IterableDataset):
    """A stream that starts anew, in an order drawn from torch's generator."""

    def __iter__(self):
        return iter(X[torch.randperm(len(X))])


class Counting(IterableDataset):
    """A stream that counts what is read."""

    def __init__(self):
        self.num_read = 0

    def __iter__(self):
        for x in X:
            self.num_read += 1
            yield x


def vae():
    torch.manual_seed(0)
    program = VAE((4,), 2, (5,))
    return program.model, program.guide


def train(data, **options):
    pair = vae()
    history = fit(*pair, data, **{"num_epochs": 1, "batch_size": 10, "seed": 3, "progress": False} | options)
    return history, weights(*pair)


@pytest.mark.parametrize("make", [Once, lambda: DataLoader(Once(), batch_size=10)], ids=["data set", "loader"])
def test_all_of_a_stream_is_trained_on(make):
    history, found = train(make())
    assert history.records[0]["step"] == 10  # of ten data, the last of five
    _, expected = train(DataLoader(TensorDataset(X), batch_size=10))
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_all_of_it_is_scored():
    pair = vae()
    assert len(log_likelihood(*pair, Once(), 2, batch_size=10, seed=0).values) == 95


def test_nothing_is_read_twice_before_training():
    data = Counting()
    train(data, num_epochs=2)
    assert data.num_read == 2 * 95


def test_an_epoch_without_data_is_named(tmp_path):
    pair = vae()
    with pytest.raises(ValueError, match=r"^data: found none in epoch 2, expected a data set that can be gone through"):
        fit(*pair, Once(), num_epochs=3, batch_size=10, seed=3, progress=False, checkpoint=tmp_path)
    _, expected = train(Once())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(*pair).items())


def test_validation_and_diagnosis_of_a_stream_that_is_read():
    pair = vae()
    with pytest.raises(ValueError, match="^valid: found no data"):
        fit(*pair, X, valid=Once(), num_epochs=2, batch_size=10, progress=False)
    with pytest.raises(ValueError, match="^x: found no data"):
        diagnose(*pair, Once())


@pytest.mark.parametrize("make", [Again, lambda: TensorDataset(X)], ids=["stream", "shuffled"])
def test_asking_for_the_first_batch_changes_no_order(make):
    def batches():
        return as_batches(make(), 10, device="cpu", dtype=torch.float32, shuffle=True)

    torch.manual_seed(1)
    expected = torch.cat(list(batches()))
    torch.manual_seed(1)
    asked = batches()
    first, same = asked.first(), asked.first()
    assert torch.equal(first, same) and torch.equal(torch.cat(list(asked)), expected)
    torch.manual_seed(2)
    other = torch.cat(list(batches()))
    torch.manual_seed(2)
    assert torch.equal(torch.cat(list(asked)), other)  # and none of the next pass


def test_an_interrupted_pass_over_a_random_stream_resumes_to_the_same_weights(tmp_path):
    _, expected = train(Again(), num_epochs=2)
    pair = vae()

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*pair, Again(), num_epochs=2, batch_size=10, seed=3, progress=False, checkpoint=tmp_path, callbacks=[stop])
    fit(*pair, Again(), num_epochs=2, batch_size=10, progress=False, checkpoint=tmp_path, resume=True)
    found = weights(*pair)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_functions_resumed_on_a_random_stream_take_the_order_of_their_epoch(tmp_path):
    """Their first batch is read to find their parameters, before the generators are those of the run."""

    def run(**options):
        pyro.clear_param_store()
        torch.manual_seed(7)  # a resumed run begins with other states than it goes on with
        history = fit(*functions(), Again(), **{"batch_size": 10, "progress": False} | options)
        return history, {name: value.detach().clone() for name, value in pyro.get_param_store().items()}

    def functions():
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
                logits = pyro.param("w", torch.ones(4)) * z[:, None]
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x @ pyro.param("a", torch.ones(4)), 1.0))

        return model, guide

    expected_history, expected = run(num_epochs=4)
    run(num_epochs=2, checkpoint=tmp_path)
    history, found = run(num_epochs=4, checkpoint=tmp_path, resume=True)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    bounds, expected_bounds = ([each["train_bound"] for each in run.records] for run in (history, expected_history))
    assert bounds == expected_bounds


def test_a_pass_begun_under_other_draws_loses_no_batch_of_a_stream_that_is_read_once():
    batches = as_batches(Once(), 10, device="cpu", dtype=torch.float32, shuffle=True)
    torch.manual_seed(1)
    batches.first()
    torch.manual_seed(2)
    assert sum(map(len, batches)) == 95


@pytest.mark.parametrize("own", ["loader", "sampler"])
def test_a_loader_with_a_generator_of_its_own_resumes_to_the_same_weights(own, tmp_path):
    def loader():
        generator = torch.Generator().manual_seed(5)
        if own == "loader":
            return DataLoader(TensorDataset(X), batch_size=10, shuffle=True, generator=generator)
        return DataLoader(TensorDataset(X), batch_size=10, sampler=RandomSampler(X, generator=generator))

    _, expected = train(loader(), num_epochs=4)
    train(loader(), num_epochs=2, checkpoint=tmp_path)
    pair, options = vae(), {"batch_size": 10, "progress": False, "checkpoint": tmp_path, "resume": True}
    with pytest.raises(ValueError, match=r"generator\.loader_0: found .*, expected nothing"):
        fit(*pair, DataLoader(TensorDataset(X), batch_size=10), num_epochs=4, **options)
    fit(*pair, loader(), num_epochs=4, **options)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(*pair).items())


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_workers_that_are_kept_resume_to_the_same_weights(num_epochs, tmp_path):
    """They draw a seed in their first pass alone."""

    def loader():
        return DataLoader(TensorDataset(X), batch_size=10, shuffle=True, num_workers=1, persistent_workers=True)

    _, expected = train(loader(), num_epochs=3)
    train(loader(), num_epochs=num_epochs, checkpoint=tmp_path)
    _, found = train(loader(), num_epochs=3, checkpoint=tmp_path, resume=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


class Killed(TensorDataset):
    """Data whose worker is killed together with the run, when number ``at`` is read."""

    def __init__(self, at):
        super().__init__(X)
        self.at, self.num_read = at, 0

    def __getitem__(self, index):
        self.num_read += 1
        if self.num_read == self.at:
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
        return super().__getitem__(index)


@pytest.mark.parametrize("own", [True, False], ids=["own generator", "torch's"])
@pytest.mark.parametrize("at", [96, 2 * 95 - 2], ids=["first batch", "last batch"])
def test_a_pass_that_ends_in_reading_a_batch_resumes_to_the_same_weights(at, own, tmp_path):
    """Before the first batch an order is drawn, and once more at the end of the pass from a loader's own generator."""

    def loader(data):
        return DataLoader(data, 10, shuffle=True, generator=torch.Generator().manual_seed(5) if own else None)

    _, expected = train(loader(TensorDataset(X)), num_epochs=3)
    history, _ = train(loader(Killed(at)), num_epochs=3, checkpoint=tmp_path)
    assert history.interrupted and len(history.records) == 1
    _, found = train(loader(TensorDataset(X)), num_epochs=3, checkpoint=tmp_path, resume=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
