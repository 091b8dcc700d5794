"""What a compiled update must notice, captured or not: each change between two updates counts from the next one on."""

from __future__ import annotations

import math
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch

from pyro_vae.training import cuda_graph
from tests.support.programs import TutorialGuide, check_close, same, weights
from tests.support.tape import Tape
from tests.support.updates import Unit, compiled_ends, ends

pytestmark = pytest.mark.usefixtures("only_traced")


class OddGuide(TutorialGuide):
    """Counts its calls in a tensor that is no buffer, and has a buffer that is infinite."""

    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(3)
        self.register_buffer("bound", torch.full((2,), math.inf))

    def forward(self, x):
        self.calls.add_(1)
        super().forward(x.minimum(self.bound[0]))


def replace_a_parameter(unit):
    unit.guide.hidden.weight = torch.nn.Parameter(unit.guide.hidden.weight.detach() * 0.5)
    unit.optimizer.param_groups[0]["params"] = list(unit.pair.parameters())
    unit.optimizer.state.clear()


def move_a_parameter(unit):
    unit.guide.hidden.weight.data = unit.guide.hidden.weight.detach() * 0.5


def freeze_a_parameter(unit):
    unit.guide.hidden.weight.requires_grad_(False)


def change_the_optimiser(unit):
    unit.optimizer.param_groups[0]["weight_decay"] = 0.1


def load_the_optimiser(unit):
    unit.optimizer.load_state_dict(deepcopy(unit.optimizer.state_dict()))


def clip(unit):
    unit.plain.clip_norm = 1e-3


def evaluate(unit):
    unit.pair.eval()


def hook(unit):
    def halve(parameter):
        parameter.grad.mul_(0.5)

    unit.guide.hidden.weight.register_post_accumulate_grad_hook(halve)


def hook_the_optimiser(unit):
    unit.optimizer.register_step_pre_hook(
        lambda optimizer, *_: [p.grad.mul_(0.5) for p in unit.guide.parameters()] and None
    )


def clear_the_slots(unit):
    unit.optimizer.state.clear()


def drop_a_parameter(unit):
    unit.optimizer.param_groups[0]["params"].pop()


def replace_the_data(unit):
    unit.data.values = 255 - unit.data.values


def keep_the_pixels(unit):
    unit.data.binarize = None


def set_the_rate(unit):
    unit.optimizer.param_groups[0]["lr"] = 2**-9


def nothing(unit):
    pass


CHANGES = {
    nothing: 1, set_the_rate: 1, replace_a_parameter: 2, move_a_parameter: 2, freeze_a_parameter: 2,
    change_the_optimiser: 1, load_the_optimiser: 2, clip: 2, evaluate: 2, hook: 1, hook_the_optimiser: 1,
    clear_the_slots: 2, drop_a_parameter: 2, replace_the_data: 2, keep_the_pixels: 2,
}  # fmt: skip


def warned(change):
    return pytest.warns(UserWarning, match="a parameter has a hook") if change is hook else nullcontext()


IN_BLOCKS = (nothing, evaluate, clip, load_the_optimiser)  # where steps of several are a block, as in a run


class TestChanges:
    @pytest.mark.parametrize(
        "change",
        [pytest.param(change, marks=pytest.mark.cross) if change in IN_BLOCKS else change for change in CHANGES],
        ids=lambda change: change.__name__,
    )
    def test_none_is_missed(self, change):
        found, tape = {}, Tape()
        for kind in (tape.capture, "compiled"):  # which is held to what is not compiled in test_compiled_update.py
            with warned(change):
                found[kind] = ends(change, kind)
        assert same(found[tape.capture], found["compiled"])
        assert tape.captured == CHANGES[change]

    @pytest.mark.parametrize("change", IN_BLOCKS, ids=lambda change: change.__name__)
    def test_blocks_are_their_steps(self, change):
        tape = Tape()
        found = [ends(change, kind, 3) for kind in (tape.capture, "compiled", "plain")]
        assert same(found[0], found[1])
        check_close(found[1], found[2], rtol=1e-4, atol=1e-6)
        assert tape.captured == CHANGES[change]

    def test_a_guide_that_counts_its_calls(self):
        units = []
        for kind in (Tape().capture, "compiled"):
            unit = Unit(kind, OddGuide)
            torch.manual_seed(5)
            unit.run(6)
            units.append(unit)
        assert units[0].update.captured.num_captures == 1
        assert torch.equal(units[0].guide.calls, units[1].guide.calls)
        assert same(*(weights(unit.model, unit.guide) for unit in units))

    def test_one_that_changes_too_often_is_no_longer_captured(self, monkeypatch):
        monkeypatch.setattr(cuda_graph, "_MOST_STATES", 1)
        with pytest.warns(UserWarning, match="captured in 1 states, it changed again"):
            found = ends(move_a_parameter, Tape().capture)
        assert same(found, compiled_ends(move_a_parameter))
