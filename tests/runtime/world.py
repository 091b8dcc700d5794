"""What the honest calls share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import pyro_vae
from pyro_vae import schedules
from pyro_vae.data.split import Split


class World:
    """What the calls share: programs and data, made once."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.vae = pyro_vae.VAE((4,), 2, (3,))
        self.hvae = pyro_vae.HVAE((4,), (2, 2), (3,))
        self.m2 = pyro_vae.M2((4,), 3, 2, (3,))
        self.cvae = pyro_vae.ConditionalVAE((4,), 3, 2, (3,))
        self.vq = pyro_vae.VQVAE((4, 4), 3, 2, (2,))
        self.x = torch.bernoulli(torch.full((6, 4), 0.5))
        self.y = torch.tensor([0, 1, 2, 0, 1, 2])
        self.images = torch.bernoulli(torch.full((6, 4, 4), 0.5))
        self.split = Split(self.x)
        self.saved = folder / "saved"
        pyro_vae.save(self.vae, self.saved)
        self.linear = schedules.Linear(4)
        self.modules = {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}
