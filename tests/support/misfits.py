"""Parts that fit into a hierarchy and parts that do not, and what is said of those."""

from __future__ import annotations

import re

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import HVAE, MLP, Bernoulli, ConditionalMLP, ConvLadderVAE, DiagonalNormal, LadderVAE, StandardNormal
from tests.support.programs import IMAGE


def gaussian(in_shape, out_dim):
    """A part that takes one shape and gives a Gaussian of a length."""
    return DiagonalNormal(MLP(in_shape, (2, out_dim), ()))


def conditional(above, out_dim):
    return DiagonalNormal(ConditionalMLP(IMAGE, above, (2, out_dim), ()))


def pixels(in_dim, shape=IMAGE):
    return Bernoulli(MLP(in_dim, shape, ()), shape)


class Part(nn.Module):
    """A part that is a function."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *given):
        return self.run(*given)


def tensor():
    return Part(lambda *given: torch.zeros(1, 2))


def broken():
    return Part(lambda *given: {}["loc"])


def normal(shape, event_dim=0):
    return Part(lambda *given: dist.Normal(torch.zeros(shape), 1.0).to_event(event_dim))


def laplace(size):
    return Part(lambda z: dist.Laplace(torch.zeros(len(z), size), 1.0).to_event(1))


# Two layers, z1 of length 2 and z2 of length 3.
def parts():
    return {"prior": StandardNormal(3), "transitions": [gaussian(3, 2)], "likelihood": pixels(2)}


def bottom_up(**other):
    return HVAE(**({**parts(), "posteriors": [gaussian(IMAGE, 2), gaussian(2, 3)]} | other))


def top_down(**other):
    return HVAE(guide="top-down", **({**parts(), "posteriors": [conditional(3, 2), gaussian(IMAGE, 3)]} | other))


def ladder(**other):
    encoders = [MLP(IMAGE, None, (5,)), MLP(5, None, (6,))]
    posteriors = [gaussian(5, 2), gaussian(6, 3)]
    return LadderVAE(**({**parts(), "encoders": encoders, "posteriors": posteriors} | other))


def conv_ladder(**other):
    sizes = {"data_shape": IMAGE, "num_layers": (1, 1), "latent_channels": (1, 2), "channels": (4, 4)}
    return ConvLadderVAE(**(sizes | other))


CHAINS = [bottom_up, top_down, ladder]


def refused(error, message, make, *arguments, **options):
    """An error is raised with this message, where … stands for anything."""
    with pytest.raises(error, match=f"^{re.escape(message).replace('…', '.*')}$"):
        make(*arguments, **options)


def fails(part, kind, shapes, because):
    """What is said of a part that fails on its input."""
    takes = f"takes {shapes}, here in a batch of one" if shapes else "is called without an argument"
    return f"{part}: found {kind}, expected a module that {takes}: {because}"


def takes(part, found, expected, kind="DiagonalNormal", shapes=None):
    """What is said of a part whose network is for inputs of another length."""
    because = f"ValueError: MLP: found an input of shape {(1, *found)}, expected (*batch, {expected})"
    return fails(part, kind, shapes or found, because)


def gives(part, found, expected):
    """What is said of a part, with its layer, whose distribution has another event shape."""
    return f"{part}: found a distribution of event shape {found}, expected the event shape {expected}"


def batch(part, found, event, expected=(1,)):
    """What is said of a part, with its layer, whose distribution has not the batch shape of one datum."""
    return (
        f"{part}: found a distribution of batch shape {found} and event shape {event} for one datum, expected the "
        f"batch shape {expected}; declare the dimensions of one datum with .to_event(n)"
    )


def no_distribution(part):
    return f"{part}: found Tensor, expected a distribution: pyro.distributions has them"
