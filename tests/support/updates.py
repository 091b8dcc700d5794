"""An update of a small VAE, which the tests of CUDA graphs change and run on."""

from __future__ import annotations

from functools import cache

import torch

import pyro_vae
from pyro_vae.data.loading import Split
from pyro_vae.training.compiled_update import CompiledUpdate
from pyro_vae.training.cuda_graph import CapturedBlocks
from pyro_vae.training.run_schedule import RunSchedule
from pyro_vae.training.step import CompiledStep
from pyro_vae.training.update import Update
from tests.support.programs import TutorialGuide, TutorialModel, weights


def grey(num_data: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(256, (num_data, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(values, levels=255, binarize="dynamic")


class Unit:
    """An update of a small VAE, with the parts it is made of, as ``fit`` makes it.

    ``kind`` is ``"plain"``, ``"compiled"``, or what captures blocks of a compiled one.
    """

    def __init__(self, kind, guide=TutorialGuide):
        torch.manual_seed(1)
        self.model, self.guide = TutorialModel(), guide()
        self.model.decoder[0].bias.requires_grad_(False)  # batch norm follows: its gradient is nothing but rounding
        self.pair = torch.nn.ModuleList([self.model, self.guide])
        self.optimizer = torch.optim.Adam(self.pair.parameters(), lr=2**-7, fused=True)
        self.data = grey(40)
        batches = pyro_vae.data.conversion.as_batches(self.data, 4, device="cpu", dtype=torch.float32, shuffle=True)
        step = CompiledStep(self.model, self.guide, self.pair, pyro_vae.ELBO())
        self.plain = self.update = Update(
            batches, step.eager, self.optimizer, None, torch.zeros(2, dtype=torch.float64)
        )
        if kind != "plain":
            captured = None if kind == "compiled" else CapturedBlocks(kind)
            self.update = CompiledUpdate(self.plain, step, captured=captured)
        self.generator = torch.Generator().manual_seed(3)

    def run(self, num_steps, block=1):
        """Some steps on rows of their own, in blocks."""
        schedule = RunSchedule(self.optimizer)
        for _ in range(0, num_steps, block):
            self.update([torch.randint(40, (4,), generator=self.generator) for _ in range(block)], schedule)


def ends(change, kind, block=1):
    """The weights after updates, a change of the unit, and updates again."""
    unit, num_steps = Unit(kind), 4 if block == 1 else 2 * block
    torch.manual_seed(5)
    unit.run(num_steps, block)
    change(unit)
    unit.run(num_steps, block)
    return weights(unit.model, unit.guide)


@cache
def compiled_ends(change, block=1):
    """Those of compiled updates that are not captured, which several tests are held to."""
    return ends(change, "compiled", block)
