"""Labels as integers: whole numbers as they are, in whatever type, and names sorted as what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data.classes import coded

DIGITS = [index % 11 for index in range(22)]


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, np.uint8])
def test_whole_numbers_are_labels_as_they_are(kind):
    values = [kind(each) for each in DIGITS]
    for labels in (np.array(values), np.array(values, dtype=object)):
        found, names = coded(labels, 22)
        assert names is None and found.dtype == torch.int64 and found.tolist() == DIGITS


def test_fractions_are_sorted_as_numbers():
    values = [10.5, 2.0, -3.25, 2.0]
    found, names = coded(np.array(values, dtype=object), 4)
    assert names == ("-3.25", "2.0", "10.5") and found.tolist() == [2, 1, 0, 1]


def test_strings_and_mixtures_are_names():
    found, names = coded(np.array(["10", 2, "a"], dtype=object), 3)
    assert names == ("10", "2", "a") and found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_column_of_numbers_gives_what_an_array_does(library):
    frame = pytest.importorskip(library).DataFrame({"a": np.arange(22.0) / 22, "y": [float(each) for each in DIGITS]})
    splits = pyro_vae.data.load(frame, labels="y")
    expected = pyro_vae.data.load(np.arange(22.0)[:, None] / 22, labels=np.array(DIGITS))
    assert splits.classes is None and expected.classes is None
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(splits, part).labels, getattr(expected, part).labels)
