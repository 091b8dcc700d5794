"""A thread reads the next window of stored data: the same rows in the same order, each once, and no error lost."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.sparse
import torch

from pyro_vae.data.reading import stored_loader
from pyro_vae.data.storages import RawFiles, Sliced
from pyro_vae.data.stored import Stored
from pyro_vae.data.windows import Window

N, BLOCK, B = 240, 5, 7
X = np.arange(2.0 * N).reshape(N, 2)
WINDOW_BYTES = 64 * X[0].nbytes  # 64 blocks of a row: two windows of 32, beside what is left of 240


@pytest.fixture
def reads(monkeypatch):
    """The first row of each read, and whether the thread that asks for batches has made it."""
    found, original = [], RawFiles.fill

    def fill(self, start, stop, out):
        found.append((start, threading.current_thread() is threading.main_thread()))
        original(self, start, stop, out)

    monkeypatch.setattr(RawFiles, "fill", fill)
    return found


def stored(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return Stored(tmp_path / "x.npy", window_bytes=WINDOW_BYTES)


def test_each_block_is_read_once_and_all_windows_but_the_first_by_the_thread(tmp_path, reads):
    torch.manual_seed(0)
    loader = stored_loader(stored(tmp_path), B, True, torch.device("cpu"))
    reads.clear()
    for _ in range(2):
        found = torch.cat(list(loader))
        assert torch.equal(found, torch.from_numpy(X[np.argsort(np.argsort(found[:, 0].numpy()))]))
    first, second = reads[:N], reads[N : 2 * N]
    assert sorted(start for start, _ in first) == list(range(N))
    assert sum(is_main for _, is_main in first) == 32
    assert len(second) <= N + 32  # blocks of the last windows are there still, and some make room before they are used
    assert sum(is_main for _, is_main in second) <= 2 * 32


def test_batches_are_those_of_one_that_reads_nothing_ahead(tmp_path):
    ahead, plain = (stored_loader(stored(tmp_path), B, True, torch.device("cpu")) for _ in range(2))
    plain.sampler.read_ahead = None
    found = []
    for loader in (ahead, plain):
        torch.manual_seed(3)
        found.append(list(loader))
    assert all(map(torch.equal, *found)) and len(found[0]) == 35


def test_a_pass_that_begins_later_reads_no_window_that_it_leaves_out(tmp_path, reads):
    loader = stored_loader(stored(tmp_path), B, True, torch.device("cpu"))
    reads.clear()
    loader.sampler.skip = 196
    assert sum(map(len, loader)) == N - 196
    assert len(reads) <= N - 196 + 2 * 32


@pytest.mark.parametrize("is_sparse", [False, True])
def test_blocks_that_are_kept_stay_while_others_are_read(is_sparse):
    values = scipy.sparse.csr_array(X) if is_sparse else X
    held = Window([Sliced(values, "x", is_sparse=is_sparse)], np.arange(0, N + 1, BLOCK), 6)
    kept = np.array([4, 0, 7])
    rows = np.concatenate([np.arange(BLOCK * block, BLOCK * (block + 1)) for block in kept])
    for following in (np.array([1, 9, 2]), np.array([40, 9, 41])):
        assert np.array_equal(held.take(rows)[0], X[rows])
        held.read_ahead(following, kept)
        for row in rows:
            assert np.array_equal(held.take(np.array([row]))[0], X[[row]])
        asked = np.array([BLOCK * block + 3 for block in following])
        assert np.array_equal(held.take(asked)[0], X[asked])
        assert (held._slots >= 0).sum() <= 6
        held.read_ahead(kept, following)


def test_what_the_thread_cannot_read_is_said_where_it_is_asked_for(tmp_path):
    values = X.copy()
    values[123, 1] = float("nan")
    held = Window([Sliced(values, "x")], np.arange(0, N + 1, BLOCK), 6)
    held.take(np.arange(5))
    held.read_ahead(np.array([3, 24]), np.array([0]))
    assert np.array_equal(held.take(np.arange(15, 20))[0], X[15:20])
    with pytest.raises(ValueError, match=r"^x, row 123, entry \(1,\): found nan, expected finite numbers$"):
        held.take(np.array([121]))
    with pytest.raises(ValueError, match=r"^x, row 123"):
        held.take(np.array([121]))


def test_a_wait_that_is_interrupted_leaves_the_thread_its_slots(monkeypatch):
    """As by Ctrl-C; what the thread still writes must not come up as other rows."""
    goes_on = threading.Event()

    class Slow(Sliced):
        def read(self, start, stop):
            if threading.current_thread() is not threading.main_thread():
                goes_on.wait(10)
            return super().read(start, stop)

    held = Window([Slow(X, "x")], np.arange(0, N + 1, BLOCK), 4)
    held.take(np.arange(10))
    held.read_ahead(np.array([10, 11]), np.array([0, 1]))
    thread = held._ahead.found

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(thread, "exception", interrupt)
        held.take(np.array([50]))
    timer = threading.Timer(0.1, goes_on.set)
    timer.start()
    for _ in range(2):  # at once, and when the thread has ended
        assert np.array_equal(held.take(np.arange(100, 110))[0], X[100:110])
        thread.result(10)
    timer.join()


def test_sparse_blocks_make_room_before_others_are_read():
    held = Window([Sliced(scipy.sparse.csr_array(X), "x", is_sparse=True)], np.arange(0, N + 1, BLOCK), 4)
    held.take(np.arange(20))
    held.read_ahead(np.array([10, 11]), np.array([0, 1]))
    assert [block is not None for block in held._buffers[0].blocks] == [True, True, False, False]
    assert np.array_equal(held.take(np.arange(50, 60))[0], X[50:60])
