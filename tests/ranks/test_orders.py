"""Ranks see the data in one order, whatever their generators and seeds are, and draw their noise apart."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_vae.data.conversion import as_batches
from pyro_vae.runtime.ranks import Ranks
from tests.ranks import agreement
from tests.ranks.given_noise import B, D, N
from tests.support import groups


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.cross)])
def shared(request, tmp_path_factory):
    """The number of ranks, and the folder of their results."""
    folder = tmp_path_factory.mktemp("orders")
    for process in groups.start(request.param, folder, "orders", "noise"):
        assert process.returncode == 0, process.stderr
    return request.param, folder


def test_loaders_and_seeds_of_each_rank(shared):
    size, folder = shared
    found, alone = groups.results(folder, "orders", size), agreement.orders()
    for each in found:
        torch.testing.assert_close(each["seeds"], alone["seeds"], rtol=0, atol=1e-9)  # those of rank 0
        assert each["figures"] == pytest.approx(alone["figures"], rel=1e-9)
        for values, expected in zip(each["scores"], alone["scores"], strict=True):  # of data in another order
            torch.testing.assert_close(values.sort()[0], expected.sort()[0], rtol=0, atol=1e-9)
        assert each["bounds"] == pytest.approx(alone["bounds"], rel=1e-12)
        assert each["valid"] == pytest.approx(alone["valid"], rel=1e-9)
        assert [error.partition(" on each rank")[0] for error in each["refused"]] == [
            "ValueError: x: found a sampler that draws another order"
        ] * 2
        assert each["workers"] == 0  # which would be forked
    assert alone["refused"] == [None, None] and alone["workers"] == 1


def test_no_noise_is_drawn_twice(shared):
    """Each entry of each datum is read with noise of its own, in the first batch of an epoch too.

    A rank without a share of the last batch reads one datum of it.
    """
    size, folder = shared
    drawn = [value for each in groups.results(folder, "noise", size) for value in each]
    assert len(drawn) == len(set(drawn)) == 2 * D * (N + (size - 2))


class Numbered(Dataset):
    """Data of two entries: its own number, and noise."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return torch.stack([torch.tensor(float(index)), torch.rand(())])


class NumberedStream(IterableDataset):
    def __iter__(self):
        return (torch.tensor([float(index), 0.0]) for index in range(N))


def shares(loader, rank, size=3):
    batches = as_batches(loader, B, device="cpu", dtype=torch.float32, shuffle=False)
    return batches.shared(Ranks(rank, size))


def test_the_order_is_drawn_before_any_datum_is_read():
    found = []
    for rank in range(3):
        batches = shares(DataLoader(Numbered(), B, shuffle=True), rank)
        torch.manual_seed(0)
        batches.first()  # is read again
        parts = batches.picks(lambda rank=rank: torch.manual_seed(rank + 1))
        found += [part.rows[: part.num_data] for part in parts]
    numbers, noise = torch.cat(found).unbind(1)
    assert torch.equal(numbers.sort()[0], torch.arange(float(N))) and len(noise.unique()) == N


@pytest.mark.parametrize("source", [Numbered, NumberedStream])
def test_a_datum_is_told_by_its_number_among_all(source, monkeypatch):
    """One rank of three has no share of the last batch, and reads the first datum of it."""
    monkeypatch.setattr(Ranks, "table", lambda self, row: torch.tensor([list(row)] * self.size))
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [value] * self.size)
    for rank in range(3):
        batches, starts = shares(DataLoader(source(), B), rank), []
        assert batches.first()[0, 0] == batches.first_place
        batches.check_first_pass(partial(told, starts))
        assert len(list(batches.picks())) == len(starts) == 7


def told(starts, x, start):
    assert x[0, 0] == start
    starts.append(start)
