"""One untrained pair, and short runs of fit on it when annealed."""

from __future__ import annotations

import torch

from pyro_vae.training import fitting as training
from tests.support.programs import PAIRS, bits

X = bits(24)
STILL = 1e-12  # a learning rate with which the weights stand still


def fresh(name="bernoulli-mlp"):
    """The same untrained pair at each call."""
    torch.manual_seed(7)
    return PAIRS[name]()


def fit(pair, data=X, **options):
    """Three epochs of four steps, unless said otherwise."""
    options = {"num_epochs": 3, "batch_size": 6, "lr": 0.01, "seed": 0, "progress": False} | options
    return training.fit(*pair, data, **options)


def column(history, name):
    return [record[name] for record in history.records]
