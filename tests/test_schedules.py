"""Schedules: their values at every step, against tables made by hand, and the tensor that follows them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyro_vae.schedules import Cosine, Cyclical, Linear, Schedule

HALF = math.sqrt(0.5)

TABLES: dict[str, tuple[Schedule, list[float]]] = {
    "linear": (Linear(4), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
    "linear, one step": (Linear(1), [0.0, 1.0, 1.0]),
    "linear, other ends": (Linear(5, start=0.5, end=3.0), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]),
    "linear, downwards": (Linear(2, start=4.0, end=1.0), [4.0, 2.5, 1.0, 1.0]),
    "linear, level": (Linear(2, start=0.3, end=0.3), [0.3, 0.3, 0.3]),
    "cosine": (Cosine(4), [0.0, (1 - HALF) / 2, 0.5, (1 + HALF) / 2, 1.0, 1.0]),
    "cosine, other ends": (Cosine(3, start=1.0, end=3.0), [1.0, 1.5, 2.5, 3.0, 3.0]),
    "cyclical": (Cyclical(8, num_cycles=2), [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    "cyclical, sawtooth": (Cyclical(6, num_cycles=2, ramp=1.0), [0.0, 1 / 3, 2 / 3, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]),
    "cyclical, steep": (Cyclical(8, num_cycles=1, ramp=0.25), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    "cyclical, four by default": (Cyclical(16), [0.0, 0.5, 1.0, 1.0] * 4 + [1.0, 1.0]),
    "cyclical, other ends": (Cyclical(4, 0.2, 2.2, num_cycles=1), [0.2, 1.2, 2.2, 2.2, 2.2, 2.2]),
    "cyclical, one of three steps": (Cyclical(9, num_cycles=3, ramp=1.0), [0.0, 1 / 3, 2 / 3] * 3 + [1.0, 1.0]),
}


@pytest.mark.parametrize("name", TABLES)
def test_values_at_every_step(name):
    schedule, expected = TABLES[name]
    assert [schedule.at(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-14)
    assert schedule.at(10**9) == expected[-1] == schedule.end
    assert schedule.at(0) == schedule.start


def test_each_cycle_begins_at_the_start():
    for num_cycles in range(1, 60):
        for length in (1, 2, 3, 7, 100):
            schedule = Cyclical(length * num_cycles, start=0.5, end=2.0, num_cycles=num_cycles)
            assert {schedule.at(cycle * length) for cycle in range(num_cycles)} == {0.5}


@pytest.mark.parametrize("make", [Linear, Cosine, Cyclical])
def test_stepping_changes_one_tensor_in_place(make):
    schedule = make(6, start=0.1, end=0.7)
    tensor = schedule.value
    assert (tensor.dtype, tensor.shape, tensor.item()) == (torch.float64, (), 0.1)
    for step in range(1, 9):
        schedule.step()
        assert schedule.value is tensor and schedule.num_taken == step
        assert tensor.item() == schedule.at(step)
    schedule.set_step(2)  # back as well
    assert schedule.value is tensor and tensor.item() == schedule.at(2)
    schedule.step()
    assert tensor.item() == schedule.at(3)
    schedule.at(5)
    assert tensor.item() == schedule.at(3)  # asking changes nothing


def test_the_value_leaves_the_type_of_what_it_multiplies_alone():
    assert (torch.ones(3) * Linear(2).value).dtype == torch.float32


def test_the_value_follows_the_module_it_is_part_of(device):
    schedule = Linear(4)
    module = nn.ModuleList([schedule])
    schedule.set_step(1)
    module.to(device, torch.float32)
    assert (schedule.value.dtype, schedule.value.device.type) == (torch.float32, device.type)
    assert schedule.value.item() == 0.25
    schedule.step()
    assert schedule.value.item() == 0.5


def test_a_schedule_adds_nothing_to_what_is_trained_or_saved():
    assert Linear(4).state_dict() == {} and list(Linear(4).parameters()) == []


def test_a_schedule_of_ones_own_says_its_shape():
    class Quadratic(Schedule):
        def shape(self, fraction):
            return fraction**2

    assert [Quadratic(4, end=2.0).at(step) for step in range(6)] == [0.0, 0.125, 0.5, 1.125, 2.0, 2.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "num_steps: found 0, expected a positive integer"),
        (lambda: Cosine(-3), "num_steps: found -3, expected a positive integer"),
        (lambda: Linear(2.0), "num_steps: found 2.0, expected a positive integer"),
        (lambda: Linear(2, start=-0.1), "start: found -0.1, expected a finite number, 0 or more"),
        (lambda: Linear(2, end=math.inf), "end: found inf, expected a finite number, 0 or more"),
        (lambda: Cosine(2, end=math.nan), "end: found nan, expected a finite number, 0 or more"),
        (lambda: Cyclical(2, start=-1.0), "start: found -1.0, expected a finite number, 0 or more"),
        (lambda: Cyclical(2, num_cycles=0), "num_cycles: found 0, expected a positive integer"),
        (lambda: Cyclical(2, num_cycles=1.5), "num_cycles: found 1.5, expected a positive integer"),
        (lambda: Cyclical(2, ramp=0.0), r"ramp: found 0.0, expected a part of a cycle, in \(0, 1\]"),
        (lambda: Cyclical(2, ramp=1.1), r"ramp: found 1.1, expected a part of a cycle, in \(0, 1\]"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Linear(5), "Linear(5, start=0, end=1)"),
        (Cosine(5, end=4.0), "Cosine(5, start=0, end=4)"),
        (Cyclical(8, ramp=0.3), "Cyclical(8, start=0, end=1, num_cycles=4, ramp=0.3)"),
    ],
)
def test_repr_says_all_that_was_given(schedule, text):
    assert repr(schedule) == text
