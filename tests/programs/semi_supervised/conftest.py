"""A small M2 with data and labels, and one with a closed form."""

from __future__ import annotations

import pytest
import torch

from pyro_vae import M2
from tests.support.labelled_gaussian import CLASSES, LabelledPPCA
from tests.support.m2 import B
from tests.support.programs import IMAGE, LATENT_DIM, bits


@pytest.fixture
def m2():
    torch.manual_seed(1)
    return M2(IMAGE, CLASSES, LATENT_DIM, (5,)).double()


@pytest.fixture
def x():
    return bits(B).double()


@pytest.fixture
def y():
    return torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.fixture(scope="module")
def exact():
    return LabelledPPCA()
