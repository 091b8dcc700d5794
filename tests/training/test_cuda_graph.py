"""One update of the weights, captured and replayed: what it must give, what it must notice, what it must survive."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import pyro_vae
from pyro_vae.compilation import compiled as compilation
from pyro_vae.schedules import Linear
from pyro_vae.training import cuda_graph as replay
from pyro_vae.training import fitting as training
from pyro_vae.training.cuda_graph import ReplayedUpdate, make_update
from tests.support.programs import PAIRS, bits, check_close, same, traced, vae, weights
from tests.support.tape import Tape
from tests.support.updates import Unit, ends, grey
from tests.training.test_cuda_graph_changes import nothing

pytestmark = pytest.mark.usefixtures("only_traced")


@pytest.fixture
def tape(monkeypatch):
    """Makes ``fit`` replay on the CPU."""
    tape = Tape()
    monkeypatch.setattr(
        training, "make_update", lambda update, pair, size: ReplayedUpdate(update, pair, size, tape.capture)
    )
    return tape


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
