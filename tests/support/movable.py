"""Pairs whose latents can be moved, in every layout that a program may have, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from tests.support import chain, fixed_noise, one_particle
from tests.support.fixed_noise import Layout
from tests.support.programs import HIERARCHIES, PAIRS, bits

Pair = tuple[Any, Any, Tensor]


class LayoutGuide(fixed_noise.Half):
    """The guide of a layout, with noise of its own."""

    def forward(self, x: Tensor) -> None:
        with self.plates(x):
            loc = x @ self.weight + self.bias
            self.sample("z", dist.Normal(loc, (self.bias - 0.5).exp().expand_as(loc)), fixed_noise.L)


class SupportsModel(PyroModule):
    """A rate, three of shares, and for each of two columns of the data a chance, in a plate right of the data's."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0).expand([len(x), 1]))
            shares = pyro.sample("shares", dist.Dirichlet(x.new_ones(3)).expand([len(x), 1]))
            with pyro.plate("columns", 2, dim=-1):
                chance = pyro.sample("chance", dist.Beta(x.new_tensor(2.0), 1.5))
                loc = rate * shares[..., 0] + chance
                pyro.sample("x", dist.Normal(loc, 0.5), obs=x)


class SupportsGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> None:
        first, second, third, fourth = nn.functional.softplus(self.net(x)).add(0.5).split(1, -1)  # (B, 1) each
        with pyro.plate("rows", len(x), dim=-2):
            rate = pyro.sample("rate", dist.Gamma(1.0 + first, 1.0))
            pyro.sample("shares", dist.Dirichlet(torch.stack([second, third, 1.0 + 0 * second], -1)))
            with pyro.plate("columns", 2, dim=-1):
                pyro.sample("chance", dist.Beta(fourth, 1.0 + rate))


def supports() -> Pair:
    return SupportsModel(), SupportsGuide(), fixed_noise.data()[:, :2]


def in_fixed_plate() -> Pair:
    """Particles of it are drawn one after the other: its plate cannot be repeated, and its softmax is over dim=1."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.softmax(1)[:, :1].expand(5, 4), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(torch.zeros(5, 2) + x[:, :2], 1.2).to_event(1))

    return model, guide, one_particle.X


def auto_normal() -> Pair:
    """An AutoGuide in the plate of the data: its latents are point masses that follow from an auxiliary draw."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Normal(rate, 0.5), obs=x)

    x = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    guide = AutoNormal(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values={"rate": x}), init_scale=0.4)
    guide(x)
    return model, guide, x


def in_layout(layout: Layout) -> Pair:
    return fixed_noise.Model(layout), LayoutGuide(layout), fixed_noise.data()[:, : fixed_noise.D]


def one_at_a_time(kind: str) -> Pair:
    programs = one_particle.programs(kind).double()
    return programs.model, programs.guide, one_particle.X


def named(name: str) -> Pair:
    """A pair that other tests use, with images."""
    if name in HIERARCHIES:
        program = HIERARCHIES[name]().double().eval()
        return program.model, program.guide, bits(4).double()
    model, guide = PAIRS[name]()
    return model.double().eval(), guide.double().eval(), bits(4).double()


MOVABLE: dict[str, Callable[[], Pair]] = {
    **{name: lambda n=name: named(n) for name in (*HIERARCHIES, "tutorial", "hierarchy")},
    "event": lambda: in_layout(Layout()),
    "left plate": lambda: in_layout(Layout("left")),
    "right plate": lambda: in_layout(Layout("right")),
    "masked": lambda: in_layout(Layout("right", masked=True)),
    "scaled subsample": lambda: in_layout(Layout("left", scale=0.3, size=100)),
    "numbers": lambda: chain.chain(4),
    "concatenation": lambda: one_at_a_time(one_particle.CAT),
    "softmax": lambda: one_at_a_time(one_particle.SOFTMAX),
    "one after the other": in_fixed_plate,
    "supports": supports,
    "AutoNormal": auto_normal,
}
WITHOUT_A_PLATE = ("concatenation", "softmax", "one after the other")
NOT_GAUSSIAN = ("supports",)
