"""The order of stored data: each row once, blocks read once, how far from a full shuffle, the same after a skip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_vae.data.block_order import BlockSampler
from pyro_vae.data.storages import Sliced
from pyro_vae.data.windows import Window

STARTS = np.array([0, 5, 6, 13, 13, 20, 27, 31, 38, 45, 50, 59])  # one block is empty, as of a split it may be
B = 4
N = 59


def order(seed=0, starts=STARTS, **options):
    torch.manual_seed(seed)
    return list(BlockSampler(starts, **{"window": 3, "batch_size": B} | options))


@pytest.mark.parametrize("num_readers", [1, 2, 3])
def test_each_row_comes_once_in_an_order_of_its_own_and_a_pass_may_begin_later(num_readers):
    found = order(num_readers=num_readers)
    assert sorted(found) == list(range(N)) and found != sorted(found)
    assert found == order(num_readers=num_readers) != order(1, num_readers=num_readers)
    for skip in (1, B, 7 * B, N - 1, N):
        sampler = BlockSampler(STARTS, window=3, batch_size=B, num_readers=num_readers)
        sampler.skip = skip
        torch.manual_seed(0)
        assert list(sampler) == found[skip:]
        after = torch.rand(())
        assert len(list(sampler)) == N  # once
        order(num_readers=num_readers)
        assert torch.equal(torch.rand(()), after)  # the generator is where a whole pass leaves it


def test_without_shuffling_rows_come_in_order():
    assert order(shuffle=False) == list(range(N))
    sampler = BlockSampler(STARTS, window=3, batch_size=B, shuffle=False)
    sampler.skip = 8
    assert list(sampler) == list(range(8, N)) and repr(sampler) == "in order"


class Counting(Sliced):
    """Rows in memory that count how often each block is read."""

    reads = 0

    def read(self, start, stop):
        self.reads += 1
        return super().read(start, stop)


@pytest.mark.parametrize(("num_readers", "window"), [(1, 3), (1, 1), (2, 3), (1, 11)])
def test_each_block_is_read_once_by_one_reader(num_readers, window):
    starts = np.arange(0, 61, 5)
    rows = torch.from_numpy(np.arange(60.0))
    batches = torch.tensor(order(starts=starts, window=window, num_readers=num_readers)).split(B)
    total = 0
    for reader in range(num_readers):
        storage = Counting(rows.numpy(), "x")
        held = Window([storage], starts, window)
        for batch in batches[reader::num_readers]:
            assert torch.equal(held.take(batch.numpy())[0], rows[batch])
        total += storage.reads
        assert (held._slots >= 0).sum() <= window
    left = 2 * (num_readers - 1)  # rows of each reader's that are put together in the last batch
    assert len(starts) - 1 <= total <= len(starts) - 1 + left


def test_two_rows_meet_in_a_batch_as_often_as_the_formula_says():
    """Of 12 blocks of 4 rows in windows of 16, cut into batches of 8; 4 standard errors of so many epochs."""
    b, blocks, w, size, epochs = 4, 12, 4, 8, 1500
    starts, rows = np.arange(0, b * blocks + 1, b), w * b
    met = np.zeros((b * blocks, b * blocks))
    for seed in range(epochs):
        for batch in torch.tensor(order(seed, starts, window=w, batch_size=size)).split(size):
            met[np.ix_(batch, batch)] += 1
    same = np.kron(np.eye(blocks), np.ones((b, b))) - np.eye(b * blocks)
    other = 1 - same - np.eye(b * blocks)
    inside = (size - 1) / (rows - 1)
    for pairs, expected in ((same, inside), (other, inside * (w - 1) / (blocks - 1))):
        found = (met * pairs).sum() / pairs.sum() / epochs
        error = math.sqrt(expected * (1 - expected) / (epochs * blocks))  # pairs of a block hang together
        assert abs(found - expected) < 4 * error


@pytest.mark.parametrize("window", [2, 5, 20])
def test_shares_of_sorted_labels_vary_as_the_formula_says(window):
    """Half of 400 blocks are of one label. The variance over batches of its share, by the formula to 15 %."""
    size, b = 20, 200
    starts = np.arange(0, 400 * b + 1, b)
    labels = torch.arange(400 * b) < 200 * b
    shares = torch.cat([labels[order(seed, starts, window=window, batch_size=size)].float().view(-1, size).mean(1)
                        for seed in range(4)])  # fmt: skip
    expected = 0.25 * (1 / window + (1 - 1 / window) / size)
    assert shares.var().item() == pytest.approx(expected, rel=0.15)
    assert shares.var().item() > 0.25 / size


def test_a_window_of_all_blocks_is_a_full_shuffle():
    """Of five rows in three blocks each of the 120 orders is as likely as any other: chi-squared within 4 errors."""
    starts, epochs = np.array([0, 2, 3, 5]), 1800
    counts = {}
    for seed in range(epochs):
        found = tuple(order(seed, starts, batch_size=2))
        counts[found] = counts.get(found, 0) + 1
    expected = epochs / 120
    statistic = sum((count - expected) ** 2 / expected for count in counts.values()) + (120 - len(counts)) * expected
    assert abs(statistic - 119) < 4 * math.sqrt(2 * 119)
