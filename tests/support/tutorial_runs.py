"""The tutorials with data, and their weights and gradients by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from tests.support.tutorials import BATCH, CLASSES, CVAE, DMM, NOTES, PIXELS, SSVAE, STEPS, VAE, reverse


def as_args(packed: Tensor) -> tuple[Tensor, ...]:
    """The four arguments of the DMM from one tensor, whose last channel says which steps there are."""
    mini_batch, mask = packed[..., :-1], packed[..., -1] > 0
    return mini_batch, reverse(mini_batch, mask.sum(1)), mask, mask.sum(1)


class Program(nn.Module):
    """A method as a module of one argument, for ``fit`` and ``log_likelihood``, which cut ``x`` into batches."""

    def __init__(self, owner: nn.Module, method: str, unpack: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.owner, self.method, self.unpack = owner, method, unpack

    def forward(self, x: Tensor) -> Any:
        return getattr(self.owner, self.method)(*self.unpack(x))


class Tutorial:
    """A program with data: ``module.model(*args)`` is the tutorial's call, ``model(x)`` that with the other arguments
    filled in, and ``programs`` are modules of one argument, ``packed``. It does not train its ``idle_names``."""

    def __init__(self, name: str) -> None:
        upper = torch.rand(BATCH, 1) < 0.5
        x = torch.bernoulli(torch.where(upper == (torch.arange(PIXELS) < PIXELS // 2), 0.9, 0.1))
        self.module: Any = {"VAE": VAE, "M2": SSVAE, "M2 labelled": SSVAE, "CVAE": CVAE, "DMM": DMM}[name]()
        self.x, self.args, self.packed, idle = x, (x,), x, "none"
        bind: Callable[[Any], Any] = lambda program: program  # noqa: E731
        unpack: Callable[[Tensor], Any] = lambda x: (x,)  # noqa: E731
        if name == "M2 labelled":
            ys = nn.functional.one_hot(upper[:, 0].long(), CLASSES).to(x)
            self.args, self.packed, idle = (x, ys), torch.cat([x, ys], -1), "encoder_y"
            bind, unpack = lambda program: partial(program, ys=ys), lambda x: x.split([PIXELS, CLASSES], -1)
        elif name == "CVAE":
            xs = torch.where(torch.arange(PIXELS) % 2 == 0, -1.0, x)
            self.args, self.packed, idle = (xs, x), torch.stack([xs, x], 1), "baseline_net"
            bind, unpack = lambda program: partial(program, xs), lambda x: x.unbind(1)
        elif name == "DMM":
            steps = torch.arange(STEPS) < torch.tensor([4, 3, 1, 2, 4, 2])[:, None]  # (B, T)
            notes = torch.bernoulli(torch.full((BATCH, STEPS, NOTES), 0.8))
            self.packed, unpack = torch.cat([notes, steps[..., None]], -1), as_args
            self.x, backwards, mask, lengths = self.args = as_args(self.packed)
            bind = lambda program: partial(program, backwards=backwards, mask=mask, lengths=lengths)  # noqa: E731
        self.model, self.guide = bind(self.module.model), bind(self.module.guide)
        self.idle_names = {name for name, _ in self.module.named_parameters() if name.startswith(idle)}
        self.programs = tuple(Program(self.module, method, unpack) for method in ("model", "guide"))


exactly = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def draws(guide, x, num_particles=4):
    """The latents that the guide draws, by Pyro alone; differentiable."""
    torch.manual_seed(3)
    with pyro.plate("particles", num_particles, dim=-2), pyro.get_param_store().scope():
        trace = poutine.trace(guide).get_trace(x)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}


def seeded(function, *args, **kwargs):
    torch.manual_seed(3)
    return function(*args, **kwargs)


def gradients(value, module):
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, allow_unused=True), strict=True))


def by_hand(tutorial, latents, anneal=1.0):
    log_x, log_p, log_q = tutorial.module.by_hand(latents, *tutorial.args)
    return log_x + anneal * (log_p - log_q)
