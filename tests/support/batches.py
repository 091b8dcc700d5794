"""Data sets and splits of a few numbers, for the tests of what is read from them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from pyro_vae.data.batches import Batches
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.split import Split


def batches_of(data, batch_size=4, *, device="cpu", dtype=torch.float32, shuffle=False) -> Batches:
    return as_batches(data, batch_size, device=device, dtype=dtype, shuffle=shuffle)


def left_out(is_labelled=True):
    """Expect the warning that the labels in the batches are left out, where there are labels."""
    if not is_labelled:
        return nullcontext()
    return pytest.warns(
        UserWarning, match=r": found batches of 2 entries, expected one\. .* the rest \(labels\?\) is left out"
    )


def grey(n=10, binarize=None) -> Split:
    """Bytes 0, 1, 2, ... in images of 2 x 3."""
    return Split((torch.arange(6 * n) % 256).byte().reshape(n, 2, 3), levels=255, binarize=binarize)


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.tensor([index, index**2], dtype=torch.uint8)


class Stream(IterableDataset):
    def __iter__(self):
        return (torch.tensor([float(i)]) for i in range(5))
