"""Sizes that log_likelihood chooses by itself: the rule by a table, memory, and what is estimated with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.data.batch import Arguments
from pyro_vae.evaluation import chunks
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.pair import ProgramPair
from tests.support.batches import Squares, Stream
from tests.support.linear_gaussian import PPCA

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


@pytest.fixture
def vae() -> pyro_vae.VAE:
    return pyro_vae.VAE((5,), 3, (7,))


@pytest.fixture
def drawn(vae) -> list[tuple[int, int]]:
    """The particles and data of each run of the decoder with several particles."""
    sizes = []

    def note(_, inputs):
        if inputs[0].dim() == 3:
            sizes.append(tuple(inputs[0].shape[:2]))

    vae.likelihood.network.register_forward_pre_hook(note)
    return sizes


class TestTheRule:
    @pytest.mark.parametrize(("total", "most", "expected"), [
        (1, 1, 1), (7, 1, 1), (40, 50, 40), (50, 50, 50), (60, 50, 30), (99, 50, 33), (100, 50, 50), (101, 50, 50),
        (10_000, 104, 100), (5000, 1048, 1000), (97, 60, 48),
    ])  # fmt: skip
    def test_even_sizes(self, total, most, expected):
        assert chunks.even(total, most) == expected

    def test_no_other_size_leaves_fewer_over(self):
        for total in range(1, 200):
            for most in range(1, 60):
                size = chunks.even(total, most)
                assert size == total if total <= most else most / 2 <= size <= most
                assert all(total % size <= total % other for other in range(size, min(most, total) + 1))

    @pytest.mark.parametrize(("device", "num_data", "k", "expected"), [
        (CPU, 10_000, 5000, 50), (CPU, 11, 5000, 11), (CPU, 60, 1, 30),
        (GPU, 10_000, 5000, 100), (GPU, 10_000, 1000, 500), (GPU, 10_000, 10, 500), (GPU, 10_000, 10**6, 50),
        (GPU, 300, 1, 300),
    ])  # fmt: skip
    def test_batches(self, device, num_data, k, expected):
        assert chunks.batch_size_for(torch.empty(num_data, 2), k, device) == expected

    def test_batches_of_any_kind_of_data(self, vae):
        x = torch.zeros(60, 5)
        for data in (x.numpy(), pyro_vae.data.Split(x), Squares(60), TensorDataset(x), (x, 1), {"x": x}, Arguments(x)):
            assert chunks.batch_size_for(data, 10, CPU) == 30
        for data in (Stream(), DataLoader(TensorDataset(x), batch_size=7), (), torch.tensor(1.0), [], np.zeros(())):
            assert chunks.batch_size_for(data, 10, CPU) == 50  # not known, or refused elsewhere

    @pytest.mark.parametrize(("k", "batch_size", "most", "expected"), [
        (5000, 50, 2006, 40), (1, 50, 2006, 1), (1000, 100, 2**19, 1000), (5000, 100, 2**19, 5000),
        (5000, 500, 2**19, 1000), (5000, 100, 1, 1), (30, 7, 210, 30), (8, 50, 150, 2),
    ])  # fmt: skip
    def test_chunks(self, k, batch_size, most, expected):
        assert chunks.chunk_size_for(k, batch_size, most) == expected

    @pytest.mark.parametrize(("shape", "dtype", "expected"), [
        ((784,), torch.float32, 2006), ((784,), torch.float64, 1003), ((3, 64, 64), torch.float32, 1000),
        ((4,), torch.float32, 10_000), ((), torch.float32, 10_000),
    ])  # fmt: skip
    def test_draws_on_a_cpu_follow_from_the_size_of_a_datum(self, vae, shape, dtype, expected):
        programs = ProgramPair(vae.model, vae.guide, 1, "auto")
        for num_data in (1, 9):
            assert chunks.most_draws(programs, torch.zeros(num_data, *shape, dtype=dtype)) == expected

    @pytest.mark.parametrize(("num_bytes", "memory", "expected"), [
        (35_000, 80 * GIB, 2**19), (35_000, 8 * GIB, 2**17), (35_001, 8 * GIB - 1, 2**17), (10**9, GIB, 1),
        (2 * GIB, GIB, 1), (0, GIB, 2**19), (1, 3, 2),
    ])  # fmt: skip
    def test_draws_on_a_gpu_follow_from_its_memory(self, num_bytes, memory, expected):
        assert chunks.most_in_memory(num_bytes, memory) == expected

    @pytest.mark.parametrize(("free", "unused", "expected"), [(79, 0, 40), (40, 0, 40), (10, 0, 10), (10, 5, 15)])
    def test_half_the_memory_of_a_gpu_or_what_is_free(self, monkeypatch, free, unused, expected):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: (3 + unused) * GIB)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * GIB)
        assert chunks.memory_of(GPU) == expected * GIB

    def test_what_is_worth_compiling(self):
        for device, least in ((CPU, 2 * 10**6), (GPU, 2 * 10**8)):
            assert chunks.is_worth_compiling("auto", least, device)
            assert not chunks.is_worth_compiling("auto", least - 1, device)
            assert chunks.is_worth_compiling(True, 1, device) and not chunks.is_worth_compiling(False, least, device)


class TestBytesOfADraw:
    def test_by_hand(self):
        """Each tensor that is new counts once; views, and results in place, do not."""
        with chunks._Allocated() as allocated:
            a = torch.zeros(10)  # 40 bytes
            b = a.reshape(2, 5).exp()  # 40
            b.add_(1)
            b.sum(0).double()  # 20 and 40
        assert allocated.num_bytes == 140

    @pytest.mark.parametrize("num_data", [1, 4])
    def test_it_is_a_bound_of_one_draw_and_moves_no_generator(self, vae, num_data):
        programs = ProgramPair(vae.model, vae.guide, 1, "auto").isolated()
        before = torch.get_rng_state()
        found = chunks.num_bytes_of_draw(programs, torch.zeros(num_data, 5))
        assert torch.equal(before, torch.get_rng_state())
        assert found == chunks.num_bytes_of_draw(programs, torch.ones(num_data, 5))
        assert 4 * (3 + 7 + 5) < found < 4 * 40 * (3 + 7 + 5)  # latent, hidden layer, logits

    def test_wide_networks_take_more(self):
        found = []
        for width in (10, 1000):
            vae = pyro_vae.VAE((5,), 3, (width,))
            programs = ProgramPair(vae.model, vae.guide, 1, "auto").isolated()
            found.append(chunks.num_bytes_of_draw(programs, torch.zeros(4, 5)))
        assert found[1] - found[0] >= 990 * 4 * 2  # the decoder's layer, before and after its activation


class TestLogLikelihood:
    def test_against_the_exact_marginal_likelihood(self, device):
        ppca = PPCA.of(angle=math.pi / 4)  # no diagonal guide is exact: the weights vary
        expected, vae = ppca.log_p(), ppca.vae.to(device)
        options = {"num_particles": 2000, "chunk_size": "auto", "batch_size": "auto", "seed": 3}
        found = pyro_vae.log_likelihood(vae.model, vae.guide, ppca.x, **options)
        again = pyro_vae.log_likelihood(vae.model, vae.guide, ppca.x, **options)
        assert torch.equal(found.values, again.values)
        z = (found.values.cpu() - expected) / found.std_error.cpu()
        assert found.std_error.max() < 0.05
        assert abs(z.mean()) < 4.5 / math.sqrt(len(z)) and z.std().item() == pytest.approx(1.0, abs=0.2)

    def test_sizes_that_are_given_are_taken(self, vae, drawn):
        pyro_vae.log_likelihood(vae.model, vae.guide, torch.zeros(11, 5), 25, chunk_size=10, batch_size=4)
        assert drawn == [(10, 4), (10, 4), (5, 4)] * 2 + [(10, 3), (10, 3), (5, 3)]

    @pytest.mark.parametrize(("options", "expected"), [
        ({}, [(200, 50), (200, 50)]), ({"batch_size": 40}, [(200, 40), (200, 40), (200, 20)] ),
        ({"chunk_size": 150}, [(150, 50), (50, 50)] * 2),
    ])  # fmt: skip
    def test_one_may_be_given(self, vae, drawn, options, expected):
        pyro_vae.log_likelihood(vae.model, vae.guide, torch.zeros(100, 5), 200, **options)
        assert drawn == expected

    def test_they_are_those_sizes(self, vae):
        """To the last bit those of a call that says the sizes."""
        x = torch.bernoulli(torch.full((60, 5), 0.5))
        found = pyro_vae.log_likelihood(vae.model, vae.guide, x, 1000, seed=4)
        again = pyro_vae.log_likelihood(vae.model, vae.guide, x, 1000, seed=4)
        said = pyro_vae.log_likelihood(vae.model, vae.guide, x, 1000, chunk_size=250, batch_size=30, seed=4)
        assert torch.equal(found.values, again.values) and torch.equal(found.values, said.values)

    def test_a_loader_keeps_its_batches(self, vae, drawn):
        loader = DataLoader(TensorDataset(torch.zeros(20, 5)), batch_size=8)
        pyro_vae.log_likelihood(vae.model, vae.guide, loader, 2000, seed=0)
        assert drawn == [(1000, 8)] * 4 + [(1000, 4)] * 2

    def test_one_particle_at_a_time_stays_so(self, vae, monkeypatch):
        sizes = []

        def weigh(programs, x, num_particles):
            sizes.append(num_particles)
            return weights_of(programs, x, num_particles)

        monkeypatch.setattr("pyro_vae.evaluation.likelihood.weights_of", weigh)
        pyro_vae.log_likelihood(vae.model, vae.guide, torch.zeros(6, 5), 3, vectorize_particles=False)
        assert sizes == [1, 1, 1]

    @pytest.mark.parametrize("in_loader", [False, True])
    def test_few_data_and_a_loaders_batches_are_compiled(self, vae, monkeypatch, in_loader):
        runs = []

        def traced(*args, **options):
            def lower(graph, inputs):
                return lambda *tensors: runs.append(len(tensors[0])) or graph(*tensors)

            return Compiled(*args, **options, lower=lower)

        monkeypatch.setattr("pyro_vae.evaluation.likelihood.Compiled", traced)
        x = torch.zeros(12, 5)
        data = DataLoader(TensorDataset(x), batch_size=4) if in_loader else x
        pyro_vae.log_likelihood(vae.model, vae.guide, data, 40, compile=True)
        assert runs == ([4] * 4 if in_loader else [12] * 2)  # the first of them to be checked

    @pytest.mark.parametrize(("draws_that_fit", "most"), [(10_000, 8000), (300, 200), (1, 100)])
    def test_a_small_memory_is_not_exceeded(self, vae, monkeypatch, draws_that_fit, most):
        """By the rule of a GPU; a draw of each datum of a batch is the least."""
        programs, x = ProgramPair(vae.model, vae.guide, 1, "auto").isolated(), torch.zeros(100, 5)
        num_bytes = chunks.num_bytes_of_draw(programs, x)
        drawn = []
        monkeypatch.setattr(
            "pyro_vae.evaluation.likelihood.most_draws",
            lambda programs, x: chunks.most_in_memory(num_bytes, draws_that_fit * num_bytes),
        )
        vae.likelihood.network.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0].numel() // 3))
        pyro_vae.log_likelihood(vae.model, vae.guide, x, 400, batch_size=100)
        assert max(drawn) == most and sum(drawn[1:]) == 400 * 100

    @pytest.mark.parametrize("name", ["chunk_size", "batch_size"])
    @pytest.mark.parametrize("value", ["all", None, [2], 2.5, -1])
    def test_other_values_are_refused(self, vae, name, value):
        with pytest.raises(ValueError, match=rf"^{name}: found .*, expected a positive integer( or 'auto')?$"):
            pyro_vae.log_likelihood(vae.model, vae.guide, torch.zeros(2, 5), 2, **{name: value})

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_a_gpu_the_bound_of_a_draw_holds(self):
        vae = pyro_vae.VAE((784,), 50, (200, 200)).cuda()
        x = torch.zeros(100, 784, device="cuda")
        num_bytes = chunks.num_bytes_of_draw(ProgramPair(vae.model, vae.guide, 1, "auto").isolated(), x)
        options = {"chunk_size": 1000, "batch_size": 100, "compile": False}
        pyro_vae.log_likelihood(vae.model, vae.guide, x, 1000, **options)  # the workspace of the products is there
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        pyro_vae.log_likelihood(vae.model, vae.guide, x, 1000, **options)
        assert torch.cuda.max_memory_allocated() - before < 100 * 1000 * num_bytes
