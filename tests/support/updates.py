"""An update of a small VAE, which the tests of CUDA graphs change and run on."""

from __future__ import annotations

import torch

import pyro_vae
from pyro_vae.data.loading import Split
from pyro_vae.training.cuda_graph import ReplayedUpdate
from pyro_vae.training.step import Update, make_steps
from tests.support.programs import TutorialGuide, TutorialModel, weights


def grey(num_data: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(256, (num_data, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(values, levels=255, binarize="dynamic")


class Unit:
    """An update of a small VAE, with the parts it is made of, as ``fit`` makes it."""

    def __init__(self, capture, guide=TutorialGuide):
        torch.manual_seed(1)
        self.model, self.guide = TutorialModel(), guide()
        self.pair = torch.nn.ModuleList([self.model, self.guide])
        self.optimizer = torch.optim.Adam(self.pair.parameters(), lr=2**-7, fused=True)
        self.data = grey(40)
        batches = pyro_vae.data.conversion.as_batches(self.data, 4, device="cpu", dtype=torch.float32, shuffle=True)
        take, _, _ = make_steps(self.model, self.guide, self.pair, pyro_vae.ELBO(), 4, True, lambda line: None)
        plain = Update(batches, take, self.optimizer, None)
        self.update = plain if capture is None else ReplayedUpdate(plain, self.pair, 4, capture)
        self.generator = torch.Generator().manual_seed(3)

    def run(self, num_updates):
        """Some updates on rows of their own."""
        for _ in range(num_updates):
            rows = torch.randint(40, (4,), generator=self.generator)
            self.update(rows)


def ends(change, capture):
    """The weights after updates, a change of the unit, and updates again."""
    unit = Unit(capture)
    torch.manual_seed(5)
    unit.run(5)
    change(unit)
    unit.run(5)
    return weights(unit.model, unit.guide)
