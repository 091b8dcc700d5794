"""A pair whose noise comes with the data, so that the same draws can be had in any order, layout or batch size.

A datum is ``D`` numbers, then ``K * L`` of noise. The layout says how one datum's dimensions are declared: as its
event, or by a plate to the left (dim -2) or to the right (dim -1, the data's at -2) of the data's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

D, L, K = 3, 2, 4


class Noised(dist.Normal):
    """A Normal drawn with given noise."""

    noise: Tensor

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self.noise

    def expand(self, batch_shape: Any, _instance: Any = None) -> Noised:
        expanded = super().expand(batch_shape, _instance)
        expanded.noise = self.noise
        return expanded


class NoisedBernoulli(dist.Bernoulli):
    """A Bernoulli drawn with given noise: 1 where the noise is below the logit."""

    noise: Tensor

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return (self.noise < self.logits).to(self.logits)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NoisedBernoulli:
        expanded = super().expand(batch_shape, _instance)
        expanded.noise = self.noise
        return expanded


@dataclass(frozen=True)
class Layout:
    """How a program is written down; what it computes is the same for all."""

    dims: Literal["event", "left", "right"] = "event"
    deterministic: bool = False
    scale: float = 1.0  # of the whole program
    size: int | None = None  # of the data set that the batch is a part of
    masked: bool = False  # whether the last datum is

    @property
    def nesting(self) -> int:
        return 1 if self.dims == "event" else 2


class Half(pyro.nn.PyroModule):
    """What model and guide share: the layout, and the parameters."""

    def __init__(self, layout: Layout, discrete: bool = False) -> None:
        super().__init__()
        self.layout, self.discrete = layout, discrete
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(0.5 * torch.randn(D, L, generator=generator).double())
        self.bias = nn.Parameter(torch.tensor([0.2, -0.4]).double())

    @contextmanager
    def plates(self, x: Tensor) -> Iterator[None]:
        layout, num_data = self.layout, len(x)
        mask = torch.arange(num_data) < num_data - 1
        dim = -2 if layout.dims == "right" else -1
        mask = mask[:, None] if dim == -2 else mask
        with (
            poutine.scale(scale=layout.scale),
            pyro.plate("data", size=layout.size or num_data, subsample_size=num_data, dim=dim),
            poutine.mask(mask=mask) if layout.masked else nullcontext(),
        ):
            yield

    def sample(self, name: str, fn: Any, num_dims: int, obs: Tensor | None = None) -> Tensor:
        """A site of ``(…, B, num_dims)`` numbers, however its dimensions are declared; returns it in that shape."""
        dims = self.layout.dims
        if dims == "event":
            return pyro.sample(name, fn.to_event(1), obs=obs)
        if dims == "right":
            with pyro.plate(f"{name} dims", num_dims, dim=-1):
                return pyro.sample(name, fn, obs=obs)
        names = ("logits",) if self.discrete and name == "z" else ("loc", "scale")
        turned = type(fn)(**{each: getattr(fn, each).mT for each in names})
        if hasattr(fn, "noise"):
            turned.noise = fn.noise.mT
        with pyro.plate(f"{name} dims", num_dims, dim=-2):
            return pyro.sample(name, turned, obs=None if obs is None else obs.mT).mT


class Model(Half):
    def forward(self, x: Tensor) -> None:
        with self.plates(x):
            zeros = x.new_zeros(len(x), L)
            loc = zeros + self.bias
            prior = dist.Bernoulli(logits=loc) if self.discrete else dist.Normal(loc, zeros + 1)
            z = self.sample("z", prior, L)  # (K, B, L)
            if self.layout.deterministic:
                pyro.deterministic("z squared", z.square(), event_dim=1)
            loc = z @ self.weight.T
            self.sample("x", dist.Normal(loc, torch.full_like(loc, 0.7)), D, obs=x[:, :D])


class Guide(Half):
    def forward(self, x: Tensor) -> None:
        with self.plates(x):
            noise = x[:, D:].unflatten(-1, (-1, L)).movedim(1, 0)  # (K, B, L)
            loc = x[:, :D] @ self.weight + self.bias
            q = NoisedBernoulli(logits=loc) if self.discrete else Noised(loc, (self.bias - 0.5).exp().expand_as(loc))
            q.noise = noise if noise.shape[0] > 1 else noise[0]
            if self.layout.deterministic:
                pyro.deterministic("loc", loc, event_dim=1)
            self.sample("z", q, L)


def pair(layout: Layout, discrete: bool = False) -> tuple[Model, Guide]:
    """The pair in a layout; its parameters are the same every time."""
    return Model(layout, discrete), Guide(layout, discrete)


def data(num_data: int = 6, num_particles: int = K) -> Tensor:
    """Data with their noise, ``(B, D + K L)``."""
    return torch.randn(num_data, D + num_particles * L, generator=torch.Generator().manual_seed(9)).double()
