"""The modules that a callable can reach, wherever they are."""

from __future__ import annotations

import functools

import pytest
from pyro import poutine
from torch import nn

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
