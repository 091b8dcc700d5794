"""Data for hierarchies, and what a run of one draws."""

from __future__ import annotations

import torch
from pyro.poutine.messenger import Messenger

from tests.support.programs import bits

X = torch.cat([bits(4), 1 - bits(4)])[torch.tensor([0, 1, 3, 4, 6])]
SHARING = ["ladder", "ladder-batch-norm", "conv-ladder"]


class Latents(Messenger):
    """The last value of every latent under it, by name."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def _pyro_post_sample(self, msg):
        if msg["name"] not in ("data", "x"):
            self.values[msg["name"]] = msg["value"]


def latents_of(call, *args, **options):
    with Latents() as latents:
        result = call(*args, **options)
    return result, latents.values
