"""One conjugate pair in all the ways that SVI takes: p(z) = N(0, 1), p(x|z) = N(w z + b, s), q(z|x) = N(a x + c, t).

Each function returns a new pair with the same start, and a function that returns its parameters by these letters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.nn.functional import linear

DIM = 3
Written = tuple[Any, Any, Callable[[], dict[str, Tensor]]]


def start() -> dict[str, Tensor]:
    """The values at first; ``s`` and ``t`` are positive."""
    weights = torch.linspace(-0.5, 0.7, DIM)
    return {
        "w": weights[:, None].clone(),
        "b": torch.full((DIM,), 0.1),
        "s": torch.full((DIM,), 0.5),
        "a": weights[None].clone(),
        "c": torch.full((1,), -0.2),
        "t": torch.full((1,), 0.8),
    }


def start_of(letters: str) -> dict[str, Tensor]:
    """Some of these values."""
    return {letter: start()[letter] for letter in letters}


def model_of(x: Tensor, w: Tensor, b: Tensor, s: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(linear(z, w, b), s).to_event(1), obs=x)


def guide_of(x: Tensor, a: Tensor, c: Tensor, t: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(linear(x, a, c), t).to_event(1))


class Half(PyroModule):
    """A half of the pair, whose parameters are attributes with the letters of the module docstring."""

    def __init__(self, program: Callable[..., None], letters: str) -> None:
        super().__init__()
        self.program, self.letters = program, letters
        for letter in letters[:2]:
            setattr(self, letter, nn.Parameter(start()[letter]))
        setattr(self, letters[2], PyroParam(start()[letters[2]], constraints.positive))

    def forward(self, x: Tensor) -> None:
        self.program(x, *(getattr(self, letter) for letter in self.letters))

    def values(self) -> dict[str, Tensor]:
        return {letter: getattr(self, letter).detach() for letter in self.letters}


class Network(nn.Module):
    """A linear map and a scale, as a plain module."""

    def __init__(self, letters: str) -> None:
        super().__init__()
        weight, bias, scale = (start()[letter] for letter in letters)
        self.weight, self.bias, self.log_scale = map(nn.Parameter, (weight, bias, scale.log()))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weight, self.bias, self.log_scale.exp()


class Pair(nn.Module):
    """A plain module with two programs as methods, which register its networks."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = Network("wbs"), Network("act")

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        model_of(x, *self.decoder())

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        guide_of(x, *self.encoder())


def _values(decoder: Network, encoder: Network) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in zip("wbsact", (*decoder(), *encoder()), strict=True)}


def as_modules() -> Written:
    model, guide = Half(model_of, "wbs"), Half(guide_of, "act")
    return model, guide, lambda: model.values() | guide.values()


def as_methods() -> Written:
    pair = Pair()
    return pair.model, pair.guide, lambda: _values(pair.decoder, pair.encoder)


def as_partials() -> Written:
    """Functions whose network is an argument that is bound beforehand."""
    networks = Network("wbs"), Network("act")

    def program(name: str, network: Network, of: Callable[..., None], x: Tensor) -> None:
        pyro.module(name, network)
        of(x, *network())

    model = functools.partial(program, "decoder", networks[0], model_of)
    return model, functools.partial(program, "encoder", networks[1], guide_of), lambda: _values(*networks)


def as_functions() -> Written:
    """Functions whose networks are in a closure, one of them in a dictionary."""
    decoder, networks = Network("wbs"), {"encoder": [Network("act")]}

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        model_of(x, *decoder())

    def guide(x: Tensor) -> None:
        encoder = pyro.module("encoder", networks["encoder"][0])
        guide_of(x, *encoder())

    return model, guide, lambda: _values(decoder, networks["encoder"][0])


def model_of_params(x: Tensor) -> None:
    w, b = pyro.param("w", start()["w"]), pyro.param("decoder.b", lambda: start()["b"])
    model_of(x, w, b, pyro.param("s", start()["s"], constraint=constraints.positive))


def guide_of_params(x: Tensor) -> None:
    a, c = pyro.param("a", start()["a"]), pyro.param("c", start()["c"])
    guide_of(x, a, c, pyro.param("t", start()["t"], constraint=constraints.positive))


def as_bare() -> Written:
    """Functions with bare parameters, one of which has a dot in its name."""
    names = {"w": "w", "b": "decoder.b", "s": "s", "a": "a", "c": "c", "t": "t"}
    return model_of_params, guide_of_params, lambda: {k: pyro.param(name).detach() for k, name in names.items()}


def as_mix() -> Written:
    """A method and a function of bare parameters."""
    pair = Pair()

    def values() -> dict[str, Tensor]:
        return _values(pair.decoder, pair.encoder) | {name: pyro.param(name).detach() for name in "act"}

    return pair.model, guide_of_params, values


WRITINGS = [as_modules, as_methods, as_partials, as_functions, as_bare, as_mix]
