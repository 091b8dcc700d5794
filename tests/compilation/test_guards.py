"""What a traced function takes for granted is noticed when it changes, whatever it is, and put back when asked."""

from __future__ import annotations

import pyro.distributions.transforms as T
import pytest
import torch
from torch import nn

from pyro_vae import ELBO
from pyro_vae.compilation.guards import Guards
from pyro_vae.schedules import Linear


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.factor = 0.5
        self.options = {"sizes": [1, 2], "names": {0, 8}}  # which collide in a table of eight: the first one in leads
        self.table = {"a": 1.5}
        self.mask = torch.ones(1)


CHANGES = {
    "a number": lambda m: setattr(m, "factor", 0.25),
    "a tensor of equal value": lambda m: setattr(m, "mask", torch.ones(1)),
    "a list": lambda m: m.options["sizes"].append(3),
    "an entry of a list": lambda m: m.options["sizes"].__setitem__(0, 5),
    "a set": lambda m: m.options["names"].add(1),
    "a key": lambda m: m.options.__setitem__("more", None),
    "a renamed key": lambda m: m.table.__setitem__("b", m.table.pop("a")),
    "a new attribute": lambda m: setattr(m, "more", 1),
    "a lost attribute": lambda m: delattr(m, "factor"),
    "eval mode": lambda m: m.eval(),
    "eval mode of a part": lambda m: m.norm.eval(),
    "a parameter": lambda m: setattr(m.linear, "weight", nn.Parameter(torch.zeros(2, 3))),
    "a buffer": lambda m: m.norm.register_buffer("running_mean", torch.zeros(2)),
    "a part": lambda m: setattr(m, "linear", nn.Linear(3, 2)),
    "a hook": lambda m: m.linear.register_forward_hook(lambda *_: None),
    "its type": lambda m: m.double(),
    "a parameter's shape": lambda m: setattr(m.linear.weight, "data", torch.zeros(4, 3)),
    "a parameter's layout": lambda m: setattr(m.linear.weight, "data", torch.zeros(3, 2).T),
    "a frozen parameter": lambda m: m.linear.weight.requires_grad_(False),
}
NO_CHANGES = {
    "nothing": lambda m: None,
    "values": lambda m: [tensor.data.add_(1) for tensor in m.state_dict().values()],
    "an equal number": lambda m: setattr(m, "factor", float("0.5")),
    "a mode and back": lambda m: m.eval().train(),
    "a set in another order": lambda m: reordered(m.options["names"]),
    "gradients": lambda m: m.linear(torch.ones(1, 3)).sum().backward(),
}


def reordered(numbers):
    """Bring a set of two colliding numbers into the other order."""
    before = list(numbers)
    numbers.clear()
    numbers.update(reversed(before))
    assert list(numbers) == before[::-1]


def taken(module):
    return Guards([module], module.state_dict(keep_vars=True).values())


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change):
    module = Module()
    guards = taken(module)
    assert guards.is_valid() and guards.first_change() is None
    CHANGES[change](module)
    assert not guards.is_valid()
    assert guards.first_change() is not None


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_is_no_change_is_not(change):
    module = Module()
    guards = taken(module)
    NO_CHANGES[change](module)
    assert guards.is_valid(), guards.first_change()


def test_the_message_names_the_attribute():
    module = Module()
    guards = taken(module)
    module.options["sizes"][1] = 7
    assert guards.first_change() == "attribute 'options.sizes.1' of Module (found 7, it was 2)"


@pytest.mark.parametrize("change", [name for name in CHANGES if "parameter's" not in name and "type" not in name])
def test_what_changed_is_put_back(change):
    module = Module()
    guards = Guards([module])
    CHANGES[change](module)
    guards.restore()
    assert guards.is_valid(), guards.first_change()


class Watched(dict):
    def clear(self):
        raise AssertionError("a dictionary that has not changed was written to")


def test_what_has_not_changed_is_left_alone():
    module = Module()
    module.options = Watched(sizes=[1, 2], names={0, 8})
    reordered(module.options["names"])
    order = list(module.options["names"])
    guards = Guards([module])
    module.factor = 0.25
    guards.restore()
    assert module.factor == 0.5 and list(module.options["names"]) == order


def test_an_objective_and_what_is_in_it():
    objective = ELBO(capacity=Linear(10))
    guards = Guards([objective])
    objective.capacity.step()
    assert guards.is_valid()  # the value is a tensor
    objective.capacity.double()
    objective.free_bits = 0.5
    assert guards.first_change() == "attribute 'free_bits' of ELBO (found 0.5, it was 0.0)"


def test_a_schedule_whose_tensor_is_another():
    schedule = Linear(10)
    guards = Guards([schedule])
    schedule.value = torch.zeros((), dtype=torch.float64)
    assert not guards.is_valid()


def test_what_a_flow_remembers_of_its_last_call_is_none_of_it():
    flow = T.affine_autoregressive(2, [4])
    guards = Guards([flow])
    flow(torch.ones(3, 2)), flow.inv
    assert guards.is_valid()
    flow.eval()
    assert not guards.is_valid()
