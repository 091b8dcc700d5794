"""Train, resume, score and diagnose on each device, and agree with the CPU in float64."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam

import pyro_vae
from pyro_vae.evaluation.bounds import mean_bound

OPTIONS = {"batch_size": 10, "seed": 0, "progress": False}


def make(device: torch.device) -> tuple[pyro_vae.VAE, torch.Tensor]:
    torch.manual_seed(0)
    vae = pyro_vae.VAE((4, 4), 2, (8,)).double()
    x = torch.bernoulli(torch.full((40, 4, 4), 0.4, dtype=torch.float64))
    return vae.to(device), x


def test_an_interrupted_run_goes_on_to_the_same_weights(device, tmp_path):
    whole, x = make(device)
    pyro_vae.fit(whole.model, whole.guide, x, num_epochs=4, valid=x, **OPTIONS)
    part, _ = make(device)
    pyro_vae.fit(part.model, part.guide, x, num_epochs=2, valid=x, checkpoint=tmp_path, **OPTIONS)
    rest, _ = make(device)
    pyro_vae.fit(rest.model, rest.guide, x, num_epochs=4, valid=x, checkpoint=tmp_path, resume=True, **OPTIONS)
    for expected, found in zip(whole.parameters(), rest.parameters(), strict=True):
        assert found.device.type == device.type
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if device.type == "cpu" else 1e-9)


def test_a_run_may_go_on_with_another_rate(device, tmp_path):
    vae, x = make(device)
    pyro_vae.fit(vae.model, vae.guide, x, num_epochs=1, lr=0.1, checkpoint=tmp_path, **OPTIONS)
    history = pyro_vae.fit(vae.model, vae.guide, x, num_epochs=2, lr=0.01, checkpoint=tmp_path, resume=True, **OPTIONS)
    assert [record["learning_rate"] for record in history.records] == [0.1, 0.01]


def test_scores_live_on_the_device_and_agree_with_the_cpu(device):
    vae, x = make(device)
    estimate = pyro_vae.log_likelihood(vae.model, vae.guide, x, 2000, seed=0)
    assert all(t.device.type == device.type for t in estimate)
    reference = pyro_vae.log_likelihood(*(lambda v: (v.model, v.guide))(make(torch.device("cpu"))[0]), x, 2000, seed=1)
    error = (estimate.std_error.cpu() ** 2 + reference.std_error**2).sqrt()
    # 30 data, 5 standard errors each: a false alarm in 60,000 seeds
    assert ((estimate.values.cpu() - reference.values).abs() < 5 * error).all()
    bound = mean_bound(vae.model, vae.guide, x, pyro_vae.ELBO(50), seed=0)
    assert bound < estimate.mean()
    assert set(pyro_vae.active_units(vae.guide, x)) == {"z"}


def test_svi_trains_on_the_device(device):
    vae, x = make(device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), loss=pyro_vae.IWAE(3))
    losses = [svi.step(x.to(device)) for _ in range(100)]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.gpu
def test_work_on_the_cpu_leaves_the_generators_of_cuda_alone():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.cuda.get_rng_state()
    vae, x = make(torch.device("cpu"))
    torch.cuda.set_rng_state(before)
    pyro_vae.log_likelihood(vae.model, vae.guide, x, 10, seed=0)
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_no_step_waits_for_the_device(compile, monkeypatch):
    """An epoch reads as much of two steps as of four; the first one also checks all data, batch by batch."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(pyro_vae.training.decisions, "_SECONDS_BETWEEN_READS", float("inf"))
    monkeypatch.setattr(pyro_vae.compilation.compiled, "inductor", lambda graph, inputs: graph)
    vae, x = make(torch.device("cuda"))
    waits = []
    for num_data in (20, 40):
        reads = []
        for num_epochs in (3, 4):  # the first two make the optimiser's state, compile and capture
            with torch.profiler.profile() as profile:
                pyro_vae.fit(
                    vae.model, vae.guide, x[:num_data], num_epochs=num_epochs, **OPTIONS | {"compile": compile}
                )
            found = [event.count for event in profile.key_averages() if event.key == "aten::_local_scalar_dense"]
            reads.append(sum(found))
        waits.append(reads[1] - reads[0])
    assert waits[0] == waits[1] > 0
