"""Closed forms in float64: how close a value must be, and the density of a Gaussian by its formula."""

from __future__ import annotations

import math

import torch

EXACT = 1e-10
DEPTHS = [1, 2, 3, 4]


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def density(value, mean, scale):
    """log N(value; mean, diag(scale²)) by the formula, summed over the last dimension."""
    return -0.5 * (((value - mean) / scale) ** 2 + 2 * torch.log(scale) + math.log(2 * math.pi)).sum(-1)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)
