"""Data that stay on disk: of every kind the rows are what they are in memory, in batches, splits and workers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pyro_vae.data import Stored, as_batches, load, opening, reading
from pyro_vae.data.reading import stored_in
from tests.support import stored as places
from tests.support.stored import KINDS, PLACES, D, N, X

CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


@pytest.fixture
def small_memory(monkeypatch):
    """Let nothing fit in memory."""
    monkeypatch.setattr(opening, "total_memory", lambda: 1)


def batches(data, size=20, **options):
    return as_batches(data, size, **CPU, **{"shuffle": False} | options)


def rows(values):
    """The rows of an array in an order of their own."""
    values = np.asarray(values)
    return values[np.lexsort(values.T)]


def test_the_rows_are_the_same_on_disk_and_in_memory(place):
    data = Stored(place, window_bytes=10_000, num_workers=0)
    assert data.shape == (N, D) and data.data_shape == (D,) and len(data) == N
    np.testing.assert_array_equal(torch.cat(list(batches(data))), X)
    np.testing.assert_array_equal(torch.cat(list(batches(data, 150))), X)
    np.testing.assert_array_equal(data[[5, 200, 5, 6]], X[[5, 200, 5, 6]])
    np.testing.assert_array_equal(data[3:9], X[3:9])
    np.testing.assert_array_equal(data[-1], X[-1])
    torch.testing.assert_close(data.mean(), torch.from_numpy(X.mean(0)))
    found = list(batches(data, shuffle=True))
    assert [len(x) for x in found] == 10 * [20] + [3] and not np.array_equal(torch.cat(found), X)
    np.testing.assert_array_equal(rows(torch.cat(found)), rows(X))
    again = pickle.loads(pickle.dumps(data))  # as a worker gets it where processes are not forked
    np.testing.assert_array_equal(again[10:50], X[10:50])


def test_small_data_are_read_whole_and_large_ones_stay(place, monkeypatch):
    small = batches(place, shuffle=True)
    assert small.resident or small._source.dataset.split is not None  # sparse rows in memory
    np.testing.assert_array_equal(rows(torch.cat(list(small))), rows(X))
    monkeypatch.setattr(opening, "total_memory", lambda: 1)
    large = batches(place)
    assert stored_in(large._source) is not None
    np.testing.assert_array_equal(torch.cat(list(large)), X)


def test_splits_hold_the_rows_that_they_have_in_memory(place):
    expected, found = load(X, seed=3), load(place, seed=3, in_memory=False)
    for name in ("train", "valid", "test"):
        part = getattr(found, name)
        assert isinstance(part, Stored) and not isinstance(getattr(load(place, in_memory=True), name), Stored)
        np.testing.assert_array_equal(rows(part[:]), rows(getattr(expected, name).values))
        np.testing.assert_array_equal(torch.cat(list(batches(part))), part[:])
    shuffled = torch.cat(list(batches(found.train, shuffle=True)))
    np.testing.assert_array_equal(rows(shuffled), rows(expected.train.values))
    torch.testing.assert_close(found.train.mean(), expected.train.mean())


@pytest.mark.parametrize("kind", ["zarr array", "cells", "hdf5 array", "hugging face", "parquet"])
def test_workers_read_the_same(tmp_path, kind):
    place = PLACES[kind](tmp_path)
    found = []
    for num_workers in (2, 0):  # of which the order knows the number
        data = Stored(place, window_bytes=8_000, num_workers=2)
        data.num_workers = 2
        torch.manual_seed(0)
        loader = batches(data, shuffle=True)
        assert loader._source.num_workers == 2
        if num_workers == 0:
            loader._source.num_workers = 0
        found.append(torch.cat(list(loader)))
    assert torch.equal(*found)
    np.testing.assert_array_equal(rows(found[0]), rows(X))


def test_a_rank_of_several_forks_no_workers_unless_it_is_told_to(tmp_path, monkeypatch):
    """It reads in the order of two workers."""
    monkeypatch.setattr(reading, "_num_cores", lambda: 2)
    path, labels = PLACES["hdf5 array"](tmp_path), torch.arange(N)
    found = []
    for is_connected in (False, True):
        monkeypatch.setattr(reading, "is_connected", lambda is_connected=is_connected: is_connected)
        torch.manual_seed(0)
        loader = batches(Stored(path, window_bytes=8_000), shuffle=True)
        assert loader._source.num_workers == (0 if is_connected else 2)
        found.append(torch.cat(list(loader)))
        beside = batches((Stored(path, window_bytes=8_000), labels), shuffle=True, programs=(lambda x, y: None,))
        assert beside._source.num_workers == (0 if is_connected else 2)
        for given in (1, 2):
            told = Stored(path, window_bytes=8_000, num_workers=given)
            for data in (told, (told, labels)):
                loader = batches(data, shuffle=True, programs=(lambda x, y: None,) * isinstance(data, tuple))
                assert loader._source.num_workers == given
    assert torch.equal(*found)


def test_labels_come_from_the_same_place(tmp_path):
    codes = {"B": 0, "NK": 1, "T": 2}
    for place in (places.cells(tmp_path), places.parquet(tmp_path, kind=KINDS)):
        splits = load(place, labels="kind", in_memory=False)
        assert splits.classes == ("B", "NK", "T") and splits.data_shape == (D,)
        for x, label in zip(splits.test[:], splits.test.labels, strict=True):
            matching = (x.numpy() == X).all(1)
            assert label in [codes[kind] for kind in KINDS[matching]]
