"""A bound that stops being finite: training stops, says where, and keeps the last good weights."""

from __future__ import annotations

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

import pyro_vae
from pyro_vae import ELBO, IWAE, training
from pyro_vae.training import decisions
from tests.support.programs import named, same, weights

NUM_DATA, BATCH = 12, 4  # three steps an epoch


class Model(PyroModule):
    """z ~ N(0, 1), x ~ N(a z, 1): the weights overflow when the learning rate is huge."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(2))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * z, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(2, 2)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc(x), 1.0).to_event(1))


@pytest.fixture
def pair():
    return Model(), Guide()


def diverging(from_epoch):
    """A rate that is harmless until it is enormous."""
    return lambda fraction: 1e-3 if fraction < (from_epoch - 1) / 5 - 1e-9 else 1e30


def fit(pair, data=None, **options):
    data = torch.randn(NUM_DATA, 2, generator=torch.Generator().manual_seed(0)) if data is None else data
    options = {
        "num_epochs": 5,
        "batch_size": BATCH,
        "optimizer": torch.optim.SGD,
        "seed": 0,
        "progress": False,
    } | options
    return training.fit(*pair, data, **options)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(kl="analytic"), IWAE(num_particles=3)], ids=named)
@pytest.mark.parametrize("from_epoch", [1, 3])
@pytest.mark.parametrize("reads", ["each step", "each epoch"])
def test_it_names_site_and_step_and_keeps_the_last_good_epoch(
    pair, objective, from_epoch, reads, tmp_path, monkeypatch
):
    monkeypatch.setattr(decisions, "_SECONDS_BETWEEN_READS", -1.0 if reads == "each step" else float("inf"))
    good, bounds = [weights(*pair)], []

    def callback(record):
        good.append(weights(*pair))
        bounds.append(record["train_bound"])

    options = {"objective": objective, "checkpoint": tmp_path, "callbacks": [callback]}
    with pytest.raises(FloatingPointError) as caught:
        fit(pair, lr=diverging(from_epoch), **options)
    # The first step with the enormous rate makes the weights enormous, the next one's bound is no number.
    message = str(caught.value)
    step = 3 * (from_epoch - 1) + 2
    assert message.startswith(f"epoch {from_epoch}, step {step}: found the bound "), message
    assert re.search(
        r"the first value not finite is the (value of site 'z' in the guide|log-probability of site '[xz]' in "
        r"the (model|guide))",
        message,
    ), message
    assert message.endswith(f"of the last good epoch; the checkpoint in {tmp_path} is that of the last good epoch")
    assert len(good) == from_epoch
    assert same(weights(*pair), good[-1])

    # What is on disk is whole, finite, and can be gone on with.
    if from_epoch > 1:
        copy = (Model(), Guide())
        pyro_vae.load(tmp_path, copy)
        assert same(weights(*copy), good[-1])
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == from_epoch - 1
    resumed = (Model(), Guide())
    history = fit(resumed, objective=objective, checkpoint=tmp_path, resume=True, lr=lambda fraction: 1e-3)
    assert len(history.records) == 5
    assert all(torch.isfinite(tensor).all() for tensor in weights(*resumed).values())
    assert [record["train_bound"] for record in history.records[: from_epoch - 1]] == bounds


def test_the_last_step_of_an_epoch_is_not_too_late(pair):
    # One step an epoch: its bound is finite, its update overflows float32.
    before = weights(*pair)
    with pytest.raises(FloatingPointError, match="epoch 1: the step that ended it made a parameter infinite or NaN"):
        fit(pair, batch_size=NUM_DATA, lr=3e38)
    assert same(weights(*pair), before)


def test_a_gradient_that_is_not_finite_is_named():
    class Root(Model):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                mean = torch.sqrt(self.slope - 1) * z  # finite at 0, where its slope is not
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    pair = (Root(), Guide())
    before = weights(*pair)
    with pytest.raises(
        FloatingPointError, match="epoch 1, step 1: found a gradient of 'model.slope' that is not finite"
    ):
        fit(pair)
    assert same(weights(*pair), before)


def test_the_validation_bound_counts_too(pair, tmp_path):
    # The only step of each epoch is enormous, yet finite; the bound that follows is not.
    good = [weights(*pair)]
    with pytest.raises(FloatingPointError) as caught:
        options = {"valid": torch.ones(3, 2), "lr": diverging(2), "batch_size": NUM_DATA, "checkpoint": tmp_path}
        fit(pair, callbacks=[lambda record: good.append(weights(*pair))], **options)
    assert str(caught.value).startswith(
        "epoch 2, after step 2: found the validation bound -inf; the first value not "
    ), caught.value
    assert "the log-probability of site 'z' in the model" in str(caught.value)
    assert same(weights(*pair), good[1]) and len(good) == 2
    copy = (Model(), Guide())
    pyro_vae.load(tmp_path, copy)
    assert same(weights(*copy), good[1])


class Turning(Dataset):
    """Data whose row 9 is ``bad`` from the ``epoch`` on, counted from 1."""

    def __init__(self, bad, epoch):
        self.x = torch.randn(NUM_DATA, 2, generator=torch.Generator().manual_seed(0))
        self.bad, self.epoch, self.num_read = bad, epoch, 0

    def __len__(self):
        return NUM_DATA

    def __getitem__(self, index):
        x = self.x[index].clone()
        self.num_read += 1
        if index == 9 and self.num_read > (self.epoch - 1) * NUM_DATA:
            x[1] = self.bad
        return x


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_data_in_a_loader_are_named_in_the_first_epoch(pair, bad, tmp_path):
    before = weights(*pair)
    advice = r"; if it stands for a missing entry, pyro_vae\.pack\(x\) .*" if math.isnan(bad) else ""
    with pytest.raises(
        ValueError, match=rf"^data: found the value {bad} at \(9, 1\), expected finite numbers{advice}$"
    ):
        fit(pair, DataLoader(Turning(bad, 1), batch_size=BATCH), lr=1e-3, checkpoint=tmp_path)
    assert same(weights(*pair), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_data_that_a_loader_brings_late_are_stopped_at(pair, bad, tmp_path):
    good = []
    with pytest.raises(
        FloatingPointError, match=r"epoch 2, step 6: found the bound .* site '[xz]' in the (model|guide)"
    ):
        fit(
            pair, DataLoader(Turning(bad, 2), batch_size=BATCH), lr=1e-3, checkpoint=tmp_path,
            callbacks=[lambda record: good.append(weights(*pair))],
        )  # fmt: skip
    assert same(weights(*pair), good[-1])


def test_momentum_and_generators_go_back_as_well(pair):
    # After the failure the caller's generator stands where it stood, and a new run from the weights kept is repeatable.
    state = torch.get_rng_state()
    with pytest.raises(FloatingPointError):
        fit(pair, lr=diverging(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == "highest"
    kept = weights(*pair)
    straight = (Model(), Guide())
    straight[0].load_state_dict(pair[0].state_dict())
    straight[1].load_state_dict(pair[1].state_dict())
    assert [r["train_bound"] for r in fit(pair, lr=1e-3).records] == [
        r["train_bound"] for r in fit(straight, lr=1e-3).records
    ]
    assert not same(weights(*pair), kept)
