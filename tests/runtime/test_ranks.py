"""What ranks are without a launcher, and how they cut what they share."""

from __future__ import annotations

import torch

from pyro_vae.runtime.ranks import Ranks, ranks


def test_without_a_launcher_there_is_one_rank():
    assert (ranks().rank, ranks().size) == (0, 1) and not torch.distributed.is_initialized()


def test_shares_are_all_of_a_batch():
    for num in range(1, 12):
        for size in range(1, 6):
            rows = [row for rank in range(size) for row in range(num)[Ranks(rank, size).share(num)]]
            assert rows == list(range(num))
