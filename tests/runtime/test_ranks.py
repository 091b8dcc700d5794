"""What ranks are without a launcher, and how they cut what they share."""

from __future__ import annotations

import pytest
import torch

from pyro_vae.runtime.ranks import Ranks, ranks


def test_without_a_launcher_there_is_one_rank():
    assert (ranks().rank, ranks().size) == (0, 1) and not torch.distributed.is_initialized()


def test_shares_are_all_of_a_batch():
    for num in range(1, 12):
        for size in range(1, 6):
            rows = [row for rank in range(size) for row in range(num)[Ranks(rank, size).share(num)]]
            assert rows == list(range(num))


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "MASTER_PORT"])
@pytest.mark.parametrize("found", ["two", "", "-1", "2.0"])
def test_a_variable_of_a_launcher_that_is_no_number(name, found, monkeypatch):
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | {name: found}
    for each, value in launched.items():
        monkeypatch.setenv(each, value)
    with pytest.raises(ValueError, match=f"^{name}: found '{found}' in the environment, expected a number"):
        ranks()
