"""Data of any kind as one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae.data.batch import Arguments
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.held import first_data, spaced_data
from pyro_vae.data.split import Split
from pyro_vae.data.stored import Stored

X = torch.arange(20.0).reshape(10, 2)


def batches(data, programs=()):
    return as_batches(data, 4, device="cpu", dtype=torch.float64, shuffle=False, programs=programs)


@pytest.mark.parametrize(("num_data", "expected"), [(None, 10), (3, 3), (4, 4), (7, 7), (99, 10)])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: DataLoader(x, batch_size=3)], ids=["resident", "loader"])
def test_the_first_data_in_order(num_data, expected, wrap):
    held = first_data(batches(wrap(X)), num_data, "data")
    assert held.dtype == torch.float64 and torch.equal(held, X[:expected].double())


def test_several_arguments_and_options():
    def program(x, y, beta=None):
        pass

    loader = DataLoader(TensorDataset(X, torch.arange(10)), batch_size=3)
    held = first_data(batches(loader, [program]), 7, "data")
    assert isinstance(held, Arguments) and torch.equal(held.args[0], X[:7].double())
    assert torch.equal(held.args[1], torch.arange(7))  # an integer still
    held = first_data(batches((X, torch.arange(10), 2.0), [lambda x, y, beta: None]), 7, "data")
    assert len(held) == 7 and held.args[2] == 2.0


@pytest.mark.parametrize(
    ("num_data", "rows"), [(1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (10, range(10)), (99, range(10))]
)
def test_data_at_even_distances(num_data, rows, tmp_path):
    rows = list(rows)
    np.save(tmp_path / "x.npy", X.numpy())
    stored = Stored((tmp_path / "x.npy", torch.arange(10)))
    held = spaced_data(batches(stored, [lambda x, y: None]), num_data, "data")
    assert torch.equal(held.args[0], X[rows].double()) and held.args[1].tolist() == rows
    assert torch.equal(spaced_data(batches(X), num_data, "data"), X[rows].double())
    held = spaced_data(batches((X, torch.arange(10), 2.0), [lambda x, y, beta: None]), num_data, "data")
    assert held.args[1].tolist() == rows and held.args[2] == 2.0
    of_a_loader = spaced_data(batches(DataLoader(X, batch_size=3)), num_data, "data")
    assert torch.equal(of_a_loader, X[: len(rows)].double())  # to read on would take long


def test_bits_are_drawn_once():
    held = first_data(batches(Split(torch.full((1000, 1), 0.5), binarize="dynamic")), None, "data")
    assert held.unique().tolist() == [0.0, 1.0]  # and stay as they are: no later pass draws


def test_none():
    with pytest.raises(ValueError, match="^data: found no data, expected one datum or more$"):
        first_data(batches(DataLoader(X, batch_size=11, drop_last=True)), None, "data")


def test_batches_of_several_shapes():
    loader = DataLoader([torch.zeros(2, 3), torch.zeros(2, 5)], batch_size=None)
    with pytest.raises(ValueError, match=r"^data: found batches of different shapes \(3,\), \(5,\), expected data of"):
        first_data(batches(loader), None, "data")
