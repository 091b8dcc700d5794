"""The modules that a callable can reach, wherever they are."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyro_vae
from pyro_vae.runtime.modules import named_owners, owners

GLOBAL = nn.Linear(1, 1)


def uses_global(x):
    return (lambda: GLOBAL(x))()  # a function within, which names it


def calls_another(x):
    return uses_global(x)


class Plain:
    def __init__(self, layer):
        self.layers, self.me, self.numbers = {"a": [layer], "b": 3}, self, list(range(1000))

    def program(self, x):
        return self.layers["a"][0](x)

    def __call__(self, x):
        return GLOBAL(x)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def program(self, x):
        return self.layer(GLOBAL(x))


LAYER, MODULE, PLAIN = nn.Linear(1, 1), Module(), Plain(GLOBAL)


def closing_over(*values):
    return lambda x: (x, values)


CASES = {
    "module": (LAYER, {"self": LAYER}),
    "method": (MODULE.program, {"self": MODULE, "GLOBAL": GLOBAL}),
    "method of a layer": (LAYER.forward, {"self": LAYER}),
    "global in a lambda in a function": (uses_global, {"GLOBAL": GLOBAL}),
    "function that calls another": (calls_another, {"uses_global/GLOBAL": GLOBAL}),
    "closure": (closing_over(LAYER, {"x.y": MODULE}), {"values[0]": LAYER, "values[1][x/y]": MODULE}),
    "module in a module": (closing_over(MODULE, MODULE.layer), {"values[0]": MODULE}),
    "partial": (functools.partial(lambda net, x: net(x), LAYER), {"args[0]": LAYER}),
    "keyword": (functools.partial(lambda x, net: net(x), net=LAYER), {"net": LAYER}),
    "handler": (poutine.scale(MODULE.layer, scale=2.0), {"self": MODULE.layer}),
    "handler around a handler": (poutine.block(poutine.scale(LAYER, scale=2.0), hide=["x"]), {"self": LAYER}),
    "method of an object": (PLAIN.program, {"layers[a][0]": GLOBAL}),
    "object": (PLAIN, {"layers[a][0]": GLOBAL}),
    "object in a closure": (closing_over(PLAIN), {"values[0]/layers[a][0]": GLOBAL}),
    "another method": (
        closing_over(MODULE.program),
        {"values[0]": MODULE, "values[0]/GLOBAL": GLOBAL},
    ),
    "nothing": (len, {}),
}


@pytest.mark.parametrize(("program", "expected"), CASES.values(), ids=CASES)
def test_the_modules_of(program, expected):
    assert named_owners(program) == expected
    assert list(owners(program)) == list(expected.values())


def test_two_modules_with_one_name_have_two():
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    both = poutine.scale(functools.partial(one.forward, other), scale=2.0)
    assert list(named_owners(both).values()) == [one, other]


def test_data_are_not_looked_through():
    numbers = [nn.Linear(1, 1)] * 300
    assert named_owners(lambda x: numbers) == {}


FAR = 1e5  # where float32 is 0.008 apart
CALLS = {
    "log_likelihood": lambda *pair_and_x: pyro_vae.log_likelihood(*pair_and_x, 100, seed=0).values,
    "score": lambda *pair_and_x: pyro_vae.score(*pair_and_x, 100, seed=0).values,
    "ais": lambda *pair_and_x: pyro_vae.ais(*pair_and_x, 2, 3, seed=0).values,
    "mean_bound": lambda *pair_and_x: pyro_vae.evaluation.mean_bound(*pair_and_x, pyro_vae.IWAE(100), seed=0),
    "impute": lambda model, guide, x: pyro_vae.impute(model, guide, x[:, None], num_particles=10),
    "diagnose": lambda *pair_and_x: pyro_vae.diagnose(*pair_and_x, num_data_mi=5),
    "active_units": lambda model, guide, x: pyro_vae.active_units(guide, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_programs_without_parameters_run_on_data_as_they_are(name):
    seen = set()

    def model(x):
        seen.add(x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            fn = dist.Normal(z[..., None] + FAR, 1.0).to_event(1) if x.dim() > 1 else dist.Normal(z + FAR, 1.0)
            pyro.sample("x", fn, obs=x)

    def guide(x):
        seen.add(x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x.flatten() - FAR) / 2, 0.5**0.5))

    CALLS[name](model, guide, FAR + torch.randn(5, dtype=torch.float64))
    assert seen == {torch.float64}
