"""One update of the weights, captured and replayed: what it must give, what it must notice, what it must survive."""

from __future__ import annotations

import math
from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae.compilation import compiled as compilation
from pyro_vae.data.loading import Split
from pyro_vae.schedules import Linear
from pyro_vae.training import cuda_graph as replay
from pyro_vae.training import fitting as training
from pyro_vae.training.cuda_graph import ReplayedUpdate, make_update
from pyro_vae.training.step import Update, make_steps
from tests.support.programs import PAIRS, TutorialGuide, TutorialModel, bits, check_close, same, traced, vae, weights
from tests.support.tape import Tape


@pytest.fixture(autouse=True)
def only_traced(monkeypatch):
    monkeypatch.setattr(compilation, "inductor", traced)
    with pyro.validation_enabled(False):  # as in fit
        yield


@pytest.fixture
def tape(monkeypatch):
    """Makes ``fit`` replay on the CPU."""
    tape = Tape()
    monkeypatch.setattr(
        training, "make_update", lambda update, pair, size: ReplayedUpdate(update, pair, size, tape.capture)
    )
    return tape


def grey(num_data: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(256, (num_data, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(values, levels=255, binarize="dynamic")


def trained(name="tutorial", num_epochs=3, **options):
    """The weights and records after training on 26 data in batches of 4, the last of 2."""
    torch.manual_seed(7)
    model, guide = PAIRS[name]()
    options = {"compile": True, "clip_norm": 0.5, "lr": lambda done: 2**-6 if done < 0.5 else 2**-7, **options}
    annealed = pyro_vae.anneal_kl(model, guide, Linear(10))
    history = training.fit(
        *annealed, grey(26), num_epochs=num_epochs, batch_size=4, seed=0, progress=False, valid=bits(5), **options
    )
    for record in history.records:
        del record["seconds"]
    return weights(model, guide), history.records


class Unit:
    """An update of a small VAE, with the parts it is made of, as ``fit`` makes it."""

    def __init__(self, capture, guide=TutorialGuide):
        torch.manual_seed(1)
        self.model, self.guide = TutorialModel(), guide()
        self.pair = torch.nn.ModuleList([self.model, self.guide])
        self.optimizer = torch.optim.Adam(self.pair.parameters(), lr=2**-7, fused=True)
        self.data = grey(40)
        batches = pyro_vae.data.conversion.as_batches(self.data, 4, device="cpu", dtype=torch.float32, shuffle=True)
        take, _, _ = make_steps(self.model, self.guide, self.pair, pyro_vae.ELBO(), 4, True, lambda line: None)
        plain = Update(batches, take, self.optimizer, None)
        self.update = plain if capture is None else ReplayedUpdate(plain, self.pair, 4, capture)
        self.generator = torch.Generator().manual_seed(3)

    def run(self, num_updates):
        """Some updates on rows of their own."""
        for _ in range(num_updates):
            rows = torch.randint(40, (4,), generator=self.generator)
            self.update(rows)


def ends(change, capture):
    """The weights after updates, a change of the unit, and updates again."""
    unit = Unit(capture)
    torch.manual_seed(5)
    unit.run(5)
    change(unit)
    unit.run(5)
    return weights(unit.model, unit.guide)


class OddGuide(TutorialGuide):
    """Counts its calls in a tensor that is no buffer, and has a buffer that is infinite."""

    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(3)
        self.register_buffer("bound", torch.full((2,), math.inf))

    def forward(self, x):
        self.calls.add_(1)
        super().forward(x.minimum(self.bound[0]))


class TestReplay:
    @pytest.mark.parametrize("name", ["tutorial", "ladder"])
    def test_a_run_is_the_same_to_the_last_bit(self, name, tape, monkeypatch):
        found = trained(name)
        # 18 whole batches: the first 3 warm up, the fourth is captured and tried, 14 are replayed
        assert (tape.captured, tape.replayed) == (1, 15)
        monkeypatch.undo()
        monkeypatch.setattr(compilation, "inductor", traced)
        expected = trained(name)
        assert same(found[0], expected[0])
        assert found[1] == expected[1]

    def test_it_resumes_bit_by_bit(self, tape, tmp_path):
        whole = trained(num_epochs=4, lr=0.01)
        trained(num_epochs=2, lr=0.01, checkpoint=tmp_path / "run")
        resumed = trained(num_epochs=4, lr=0.01, checkpoint=tmp_path / "run", resume=True)
        assert same(whole[0], resumed[0])

    def test_the_rate_of_a_scheduler_is_read_anew(self, tape, monkeypatch):
        schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        found = trained(lr=2**-6, scheduler=schedule)
        assert tape.captured == 1
        monkeypatch.undo()
        monkeypatch.setattr(compilation, "inductor", traced)
        assert same(found[0], trained(lr=2**-6, scheduler=schedule)[0])

    def test_a_run_that_diverges_names_the_step(self, tape):
        with pytest.raises(FloatingPointError, match="epoch 2, step"):
            trained(lr=lambda done: 1e30 if done > 0.5 else 0.01)


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
    (unit.update.update if isinstance(unit.update, ReplayedUpdate) else unit.update).clip_norm = 1e-3


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
    change_the_optimiser: 2, load_the_optimiser: 2, clip: 2, evaluate: 2, hook: 1, hook_the_optimiser: 1,
    clear_the_slots: 2, drop_a_parameter: 2, replace_the_data: 2, keep_the_pixels: 2,
}  # fmt: skip


class TestChanges:
    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_none_is_missed(self, change):
        tape = Tape()
        with pytest.warns(UserWarning, match="a parameter has a hook") if change is hook else nullcontext():
            found, expected = ends(change, tape.capture), ends(change, None)
        assert same(found, expected)
        assert tape.captured == CHANGES[change]

    def test_a_guide_that_counts_its_calls(self):
        units = []
        for capture in (Tape().capture, None):
            unit = Unit(capture, OddGuide)
            torch.manual_seed(5)
            unit.run(6)
            units.append(unit)
        assert units[0].update.num_captures == 1
        assert torch.equal(units[0].guide.calls, units[1].guide.calls)
        assert same(*(weights(unit.model, unit.guide) for unit in units))

    def test_one_that_changes_too_often_is_no_longer_captured(self, monkeypatch):
        monkeypatch.setattr(replay, "_MOST_CAPTURES", 1)
        with pytest.warns(UserWarning, match="captured 1 times, it changed again"):
            found = ends(move_a_parameter, Tape().capture)
        assert same(found, ends(move_a_parameter, None))


class TestRefusals:
    @pytest.mark.parametrize("fault", ["nothing", "another batch", "raises", "reads"])
    def test_what_cannot_be_replayed_is_said_once_and_runs_as_before(self, fault):
        def capture(function, device):
            if fault == "raises":
                raise RuntimeError("operation not permitted when stream is capturing")
            if fault == "reads":
                return Tape().capture(lambda: function() * float(function()[0].item()), device)
            replay, bounds = Tape().capture(function, device)
            if fault == "nothing":
                return lambda: None, bounds
            return lambda: (torch.rand(3), replay()), bounds

        with pytest.warns(UserWarning, match="the update is not captured as a CUDA graph") as said:
            found = ends(nothing, capture)
        assert len(said) == 1
        assert same(found, ends(nothing, None))

    def test_a_tensor_elsewhere(self, monkeypatch):
        tape = Tape()
        monkeypatch.setattr(ReplayedUpdate, "_tensors", lambda self: [torch.empty(1, device="meta")])
        with pytest.warns(UserWarning, match="reads a tensor that is elsewhere"):
            ends(nothing, tape.capture)
        assert tape.captured == 0


class TestWhereItIsUsed:
    def test_on_a_cpu_the_update_stays_as_it_is(self):
        unit = Unit(Tape().capture)
        assert make_update(unit.update.update, unit.pair, 4) is unit.update.update

    @pytest.mark.gpu
    @pytest.mark.parametrize("name", ["tutorial", "hierarchy", "ladder"])
    def test_on_cuda_it_is_replayed_and_agrees(self, name, monkeypatch):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        monkeypatch.undo()
        calls = []
        original = replay.cuda_graph
        monkeypatch.setattr(replay, "cuda_graph", lambda *args: calls.append(1) or original(*args))
        found = trained(name, device="cuda")
        assert calls == [1]
        monkeypatch.setattr(training, "make_update", lambda update, pair, size: update)
        expected = trained(name, device="cuda")  # the same kernels, launched one by one
        check_close(found[0], expected[0], rtol=1e-4, atol=1e-5)

    def test_the_smallest_vae(self, tape):
        small = vae()
        training.fit(small.model, small.guide, bits(24), batch_size=4, num_epochs=2, compile=True, progress=False)
        assert tape.captured == 1
