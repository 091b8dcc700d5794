r"""The decoder of a program as one network from a vector to the mean of the data, for the explorer.

.. math:: z_T \mapsto \mathbb{E}[z_{T-1}|z_T] \mapsto \dots \mapsto \mathbb{E}[x|z_1]

In a hierarchy each layer below the top is at its mean given the one above. A program of labelled data takes the latents
followed by the one-hot label.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.programs.chain import ChainProgram
from pyro_vae.programs.labelled import LabelledProgram
from pyro_vae.programs.program import Program
from pyro_vae.programs.vae import VAE
from pyro_vae.reporting.subject import LeftOut
from pyro_vae.sharing.networks import Network

__all__ = ["Chained", "Top", "latents_of", "top_of"]


class Chained(Network):
    """The mean of the data from the top latents, ``(B, D)`` to ``(B, *data_shape)``."""

    title, argument = "decoder", "z"
    outputs = ("mean",)

    def __init__(self, transitions: list[nn.Module], likelihood: nn.Module) -> None:
        super().__init__()
        self.transitions, self.likelihood = nn.ModuleList(transitions), likelihood

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        for transition in reversed(self.transitions):
            z = transition(z).mean
        return (self.likelihood(z).mean,)


class Top(NamedTuple):
    """The latent that the explorer moves, its decoder, and how many classes are given beside it."""

    site: str
    decoder: Chained
    num_classes: int
    sentence: str


def top_of(program: Program) -> Top:
    """Return the latent at the top of a program and what decodes it.

    Raises
    ------
    LeftOut
        If the top is no vector, or more than the chain of means decides about the data.
    """
    if isinstance(program, LabelledProgram):
        sentence = "The class is given, and chosen beside the sliders."
        return Top("z", Chained([], program.likelihood), program.num_classes, sentence)
    if isinstance(program, ChainProgram):
        below = ", ".join(program.latents[:-1])
        sentence = f"The sliders move {program.latents[-1]}, the top; {below} are at their means given the layer above."
        decoder = Chained(list(program.transitions), program.likelihood)
        return Top(program.latents[-1], decoder, 0, sentence if below else "")
    if isinstance(program, VAE):
        return Top("z", Chained([], program.likelihood), 0, "")
    raise LeftOut(f"the latents of {type(program).__name__} are no single vector that sliders could move")


def latents_of(top: Top, z: Tensor, labels: Tensor | None) -> Tensor:
    """Return what the decoder takes: the latents ``(B, D)``, followed by their one-hot labels if it asks for them."""
    if not top.num_classes:
        return z
    label = torch.zeros(len(z), dtype=torch.long) if labels is None else labels[: len(z)].clamp(min=0)
    return torch.cat([z, nn.functional.one_hot(label.to(z.device), top.num_classes).to(z)], 1)
