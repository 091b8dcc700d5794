"""One update of the weights, captured and replayed: what it must give, what it must notice, what it must survive."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import pyro_vae
from pyro_vae.compilation import compiled as compilation
from pyro_vae.schedules import Linear
from pyro_vae.training import block_length, compiled_update, cuda_graph
from pyro_vae.training import fitting as training
from pyro_vae.training.compiled_update import CompiledUpdate
from pyro_vae.training.cuda_graph import CapturedBlocks
from tests.support.programs import PAIRS, bits, check_close, same, traced, vae, weights
from tests.support.tape import Tape
from tests.support.updates import compiled_ends, ends, grey
from tests.training.test_cuda_graph_changes import nothing

pytestmark = pytest.mark.usefixtures("only_traced")


@pytest.fixture
def tape(monkeypatch):
    """Makes ``fit`` replay on the CPU, in the longest blocks that there are."""
    tape, make_update = Tape(), training.make_update

    def make(*arguments):
        update = make_update(*arguments)
        update.captured = CapturedBlocks(tape.capture)
        return update

    monkeypatch.setattr(training, "make_update", make)
    monkeypatch.setattr(block_length, "_SECONDS", 1e9)
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
    @pytest.mark.parametrize("name", ["tutorial", pytest.param("ladder", marks=pytest.mark.cross)])
    def test_a_run_is_the_same_to_the_last_bit(self, name, tape, monkeypatch):
        found = trained(name)
        # 18 whole batches: 1 makes the slots, 1 by itself, 4 that are left of the epoch, 6 and 6 of the others
        assert (tape.captured, tape.replayed) == (3, 4)
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
        assert tape.captured == 3
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
                return Tape().capture(lambda: float(function()[0].sum().item()), device)
            replay, outputs = Tape().capture(function, device)
            if fault == "nothing":
                return lambda: None, outputs
            return lambda: (torch.rand(3), replay()), outputs

        with pytest.warns(UserWarning, match="the update is not captured as a CUDA graph") as said:
            found = ends(nothing, capture)
        assert len(said) == 1
        assert same(found, compiled_ends(nothing))

    def test_a_tensor_elsewhere(self):
        tape = Tape()
        captured = CapturedBlocks(tape.capture)
        block = cuda_graph.Block(*(torch.zeros(1, 1) for _ in range(3)))
        with pytest.warns(UserWarning, match="reads a tensor that is elsewhere"):
            assert captured(lambda *_: (), block, 0, [torch.empty(1, device="meta")]) is None
        assert tape.captured == 0


class TestWhereItIsUsed:
    def test_on_a_cpu_nothing_is_captured(self, monkeypatch):
        made = []
        monkeypatch.setattr(training, "make_update", lambda *args: made.append(make_update(*args)) or made[0])
        make_update = compiled_update.make_update
        trained(num_epochs=2)
        assert isinstance(made[0], CompiledUpdate) and made[0].captured is None

    @pytest.mark.gpu
    @pytest.mark.parametrize("name", ["tutorial", "hierarchy", "ladder"])
    def test_on_cuda_it_is_replayed_and_agrees(self, name, monkeypatch):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        monkeypatch.undo()
        calls = []
        original = cuda_graph.cuda_graph
        monkeypatch.setattr(cuda_graph, "cuda_graph", lambda *args: calls.append(1) or original(*args))
        monkeypatch.setattr(block_length, "_SECONDS", 1e9)
        found = trained(name, device="cuda")
        assert calls == [1] * 3
        monkeypatch.setattr(compiled_update, "CapturedBlocks", lambda: None)
        expected = trained(name, device="cuda")  # the same kernels, launched one by one
        check_close(found[0], expected[0], rtol=1e-4, atol=1e-5)

    def test_the_smallest_vae(self, tape):
        small = vae()
        training.fit(small.model, small.guide, bits(24), batch_size=4, num_epochs=2, compile=True, progress=False)
        assert tape.captured == 3
