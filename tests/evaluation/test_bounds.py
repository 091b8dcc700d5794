"""log_likelihood and mean_bound: what is estimated, what is restored, how much memory it takes."""

from __future__ import annotations

import math
import subprocess
import sys

import pyro
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.evaluation.bounds import mean_bound
from tests.support.batches import left_out
from tests.support.linear_gaussian import PPCA

D, L, N = 5, 3, 11


@pytest.fixture
def vae() -> pyro_vae.VAE:
    return pyro_vae.VAE((D,), L, (7,))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.bernoulli(torch.full((N, D), 0.5))


def test_against_the_exact_marginal_likelihood():
    ppca = PPCA.of(angle=math.pi / 4)  # no diagonal guide is exact: the weights vary
    estimate = pyro_vae.log_likelihood(ppca.vae.model, ppca.vae.guide, ppca.x, num_particles=4000, seed=1)
    z = (estimate.values - ppca.log_p()) / estimate.std_error
    assert estimate.std_error.max() < 0.05
    assert abs(z.mean()) < 4.5 / math.sqrt(len(z))  # 400 data, unit variance each
    assert z.std().item() == pytest.approx(1.0, abs=0.2)  # its own error is 0.035
    assert abs(estimate.mean() - ppca.log_p().mean().item()) < 4.5 * estimate.mean_error()


@pytest.mark.parametrize("options", [{"chunk_size": 7}, {"chunk_size": 10_000}, {"batch_size": 1}, {"batch_size": 4}])
def test_chunks_and_batches_change_no_more_than_the_draws(options):
    ppca = PPCA.of(angle=math.pi / 4)
    x = ppca.x[:40]
    expected = pyro_vae.log_likelihood(ppca.vae.model, ppca.vae.guide, x, 1000, seed=1)
    found = pyro_vae.log_likelihood(ppca.vae.model, ppca.vae.guide, x, 1000, seed=2, **options)
    z = (found.values - expected.values) / (found.std_error**2 + expected.std_error**2).sqrt()
    assert z.abs().max() < 5.5 and z.square().mean() < 2.2  # chi-squared of 40: both fail once in 100,000 seeds


@pytest.mark.parametrize("num_particles", [1, 99, 100, 101, 250])
def test_exactly_so_many_particles_are_drawn(vae, x, num_particles):
    drawn = []
    vae.likelihood.network.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0].numel() // L))
    pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles, chunk_size=100, batch_size=4)
    assert sum(drawn[1:]) == num_particles * N  # after a run of the pair on the first batch


def test_same_seed_same_values_and_the_callers_generator_stays(vae, x):
    state = torch.get_rng_state()
    first, second = (pyro_vae.log_likelihood(vae.model, vae.guide, x, 50, seed=4) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert torch.equal(state, torch.get_rng_state())
    other = pyro_vae.log_likelihood(vae.model, vae.guide, x, 50, seed=5)
    assert not torch.equal(first.values, other.values)


def test_result_is_a_named_tuple_of_four(vae, x):
    estimate = pyro_vae.log_likelihood(vae.model, vae.guide, x, 50, seed=0)
    values, std_error, ess, khat = estimate
    assert estimate._fields == ("values", "std_error", "ess", "khat")
    assert all(t.shape == (N,) and t.dtype == torch.float64 and not t.requires_grad for t in estimate)
    assert estimate.mean() == pytest.approx(values.mean().item())
    assert estimate.mean_error() == pytest.approx(math.sqrt(sum(e**2 for e in std_error.tolist())) / N)
    assert estimate.bits_per_dim() == pytest.approx(-estimate.mean() / (D * math.log(2)))
    assert ((ess >= 1) & (ess <= 50)).all() and khat.isfinite().all()


def test_every_kind_of_data(vae, x):
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, x, 20, batch_size=4, seed=0).values
    split = pyro_vae.data.Split(x.byte())
    loader = DataLoader(TensorDataset(x, torch.arange(N)), batch_size=4)
    for data in (x.numpy(), split, TensorDataset(x), loader):
        with left_out(data is loader):
            found = pyro_vae.log_likelihood(vae.model, vae.guide, data, 20, batch_size=4, seed=0).values
        assert found.shape == expected.shape
        if data is not loader and not isinstance(data, TensorDataset):  # a loader draws a seed of its own
            assert torch.equal(found, expected)


def test_runs_in_eval_mode_and_restores_the_flags(vae, x):
    seen = []
    vae.likelihood.network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    vae.train()
    vae.prior.eval()
    pyro_vae.log_likelihood(vae.model, vae.guide, x, 5)
    assert not any(seen)
    assert vae.likelihood.training and vae.guide.training and not vae.prior.training


def test_scales_do_not_count(vae, x):
    scaled = [pyro.poutine.scale(program, scale=0.1) for program in (vae.model, vae.guide)]
    plain = pyro_vae.log_likelihood(vae.model, vae.guide, x, 20, seed=0)
    assert torch.equal(pyro_vae.log_likelihood(*scaled, x, 20, seed=0).values, plain.values)


@pytest.mark.parametrize("argument", ["num_particles", "chunk_size", "batch_size"])
def test_counts_below_one_are_refused(vae, x, argument):
    with pytest.raises(ValueError, match=f"{argument}: found 0, expected a positive integer"):
        pyro_vae.log_likelihood(vae.model, vae.guide, x, **{argument: 0})


@pytest.mark.parametrize("objective", [pyro_vae.ELBO(), pyro_vae.IWAE(3), pyro.infer.Trace_ELBO()])
def test_mean_bound_weighs_every_datum_alike(objective):
    ppca = PPCA.of()  # exact guide: every bound is log p(x), without noise
    found = mean_bound(ppca.vae.model, ppca.vae.guide, ppca.x, objective, batch_size=150)  # 150, 150, 100
    assert found == pytest.approx(ppca.log_p().mean().item(), abs=1e-9)


MEMORY = """
import resource, sys, torch, pyro_vae
torch.manual_seed(0); torch.set_num_threads(1)
vae = pyro_vae.VAE((28, 28), 50, (200, 200))
x = torch.bernoulli(torch.full((20, 28, 28), 0.2))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # MiB, on Linux
pyro_vae.log_likelihood(vae.model, vae.guide, x, 200)
few = peak()
pyro_vae.log_likelihood(vae.model, vae.guide, x, 5000)
print(peak() - few)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
@pytest.mark.cross
def test_memory_does_not_grow_with_the_number_of_particles():
    """All 5,000 at once would be 20 x 5,000 x 784 float32 numbers, 300 MiB, several times over."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=120)
    assert float(run.stdout) < 60
