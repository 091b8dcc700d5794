"""Runs of compiled updates against runs that are not compiled, in float64, whatever happens to the optimiser.

Of the programs here no parameter has a gradient of zero, of which Adam makes steps out of rounding.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae.compilation import compiled as compilation
from pyro_vae.training import block_length
from pyro_vae.training import fitting as training
from tests.support.pairwise import in_turn

pytestmark = pytest.mark.usefixtures("only_traced")

X = (torch.rand(64, 6, generator=torch.Generator().manual_seed(7)) < 0.5).double()


def resident():
    return X


def loader():
    """The same data from a loader, whose order is of a generator of its own."""
    return DataLoader(X, 10, shuffle=True, generator=torch.Generator().manual_seed(1))


def run(compile, happens=None, data=X, **options):
    """The weights and records after four epochs; ``happens(vae, optimizer, epoch)`` after each."""
    torch.manual_seed(0)
    vae, made = pyro_vae.VAE((6,), 2, (5,)).double(), []
    make = options.pop("make", torch.optim.Adam)

    def optimizer(parameters, lr):
        made.append(make(parameters, lr=lr))
        return made[0]

    def after(record):
        if happens is not None:
            happens(vae, made[0], record["epoch"])

    history = training.fit(
        vae.model, vae.guide, data, num_epochs=4, batch_size=10, lr=0.01, seed=3, compile=compile, progress=False,
        optimizer=optimizer, callbacks=[after], **options,
    )  # fmt: skip
    return [p.detach().clone() for p in vae.parameters()], history.records


def check(found, expected):
    for value, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)
    for record, other in zip(found[1], expected[1], strict=True):
        assert record["train_bound"] == pytest.approx(other["train_bound"], rel=1e-12)
        assert "fallback" not in record


def freeze_for_two_epochs(vae, optimizer, epoch):
    vae.posterior.network.hidden[0].weight.requires_grad_(epoch not in (1, 2))


def train_the_guide_alone(vae, optimizer, epoch):
    for parameter in vae.likelihood.parameters():
        parameter.requires_grad_(epoch > 2)


def freeze_every_other_epoch(vae, optimizer, epoch):
    vae.posterior.network.hidden[0].weight.requires_grad_(epoch % 2 == 0)


def begin_some_anew(vae, optimizer, epoch):
    for parameter in list(optimizer.state)[:3]:
        for slot in optimizer.state[parameter].values():
            slot.zero_()


def change_the_numbers(vae, optimizer, epoch):
    optimizer.param_groups[0].update(betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)


def clear_the_state(vae, optimizer, epoch):
    optimizer.state.clear()


def load_the_state(vae, optimizer, epoch):
    optimizer.load_state_dict(optimizer.state_dict())


def in_groups(parameters, lr):
    first, *rest = parameters
    return torch.optim.AdamW([{"params": [first], "lr": 0.1, "weight_decay": 0.2}, {"params": rest}], lr=lr)


@pytest.mark.parametrize(
    "happens",
    [freeze_for_two_epochs, train_the_guide_alone, freeze_every_other_epoch, begin_some_anew, change_the_numbers,
     clear_the_state, load_the_state],
)  # fmt: skip
@pytest.mark.parametrize("data", [resident, pytest.param(loader, marks=pytest.mark.cross)])
def test_what_happens_to_the_optimiser_between_epochs_counts(happens, data):
    check(run(True, happens, data()), run(False, happens, data()))


OPTIONS = {
    "some parameters": {"clip_norm": 0.05, "make": lambda given, lr: torch.optim.Adam(list(given)[:2], lr=lr)},
    "groups": {"clip_norm": 0.5, "make": in_groups},
    "scheduler": {"scheduler": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=10)},
    "IWAE, dreg": {"objective": pyro_vae.IWAE(3, gradient="dreg"), "clip_norm": 1.0},
}


@pytest.mark.parametrize(("options", "data"), in_turn(OPTIONS, [resident, loader]))
def test_options_of_a_run(options, data):
    check(run(True, data=data(), **OPTIONS[options]), run(False, data=data(), **OPTIONS[options]))


def test_an_optimiser_of_parameters_without_a_gradient():
    """It has no state and makes no step; the programs go on."""
    torch.manual_seed(0)
    vae = pyro_vae.VAE((6,), 2, (5,)).double()
    vae.model.unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    options = {"num_epochs": 2, "batch_size": 10, "seed": 0, "compile": True, "progress": False}
    with pytest.warns(UserWarning, match="found no gradient of .* parameters in a whole epoch"):
        training.fit(
            vae.model, vae.guide, X, optimizer=lambda _, lr: torch.optim.Adam([vae.model.unused], lr=lr), **options
        )


@pytest.mark.parametrize("longest", [1, 3])
def test_bits_do_not_depend_on_how_long_blocks_are(longest, monkeypatch):
    monkeypatch.setattr(block_length, "_SECONDS", 1e9)
    found = run(True)
    monkeypatch.setattr(block_length, "LONGEST", longest)
    expected = run(True)
    assert all(map(torch.equal, found[0], expected[0]))
    assert [r["train_bound"] for r in found[1]] == [r["train_bound"] for r in expected[1]]


def test_a_step_of_the_optimisers_own_is_called():
    calls = []

    def make(parameters, lr):
        optimizer = torch.optim.Adam(parameters, lr=lr)
        step = optimizer.step
        optimizer.step = lambda closure=None: calls.append(1) or step(closure)
        return optimizer

    run(True, make=make)
    assert len(calls) == 28


def test_a_graph_with_other_bounds_is_refused(monkeypatch):
    def doubles(graph, inputs):
        def wrong(*tensors):
            *outputs, bounds = graph(*tensors)
            return [*outputs, 2 * bounds] if bounds.shape == (2,) else [*outputs, bounds]

        return wrong

    monkeypatch.setattr(compilation, "inductor", doubles)
    with pytest.warns(UserWarning, match="the training step is not compiled: its output 8 came out different"):
        run(True)


def test_a_graph_that_steps_otherwise_is_refused(monkeypatch):
    def halves(graph, inputs):
        def wrong(*tensors):
            outputs = graph(*tensors)
            if not len(outputs):
                tensors[1 + (len(tensors) - 1) // 4].mul_(1.01)  # the first parameter
            return outputs

        return wrong

    monkeypatch.setattr(compilation, "inductor", halves)
    with pytest.warns(UserWarning, match="the optimiser's step is not compiled: a tensor of shape"):
        run(True)


def test_a_run_that_goes_on_stays_as_it_began(monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setattr(compilation, "inductor", lambda graph, inputs: compiled.append(1) or graph)
    vae = pyro_vae.VAE((6,), 2, (5,)).double()
    options = {"batch_size": 10, "seed": 0, "checkpoint": tmp_path, "progress": False}
    training.fit(vae.model, vae.guide, X, num_epochs=1, **options)
    monkeypatch.setattr(training, "_LONG", 1)
    training.fit(vae.model, vae.guide, X, num_epochs=2, resume=True, **options)
    assert not compiled
    training.fit(vae.model, vae.guide, X, num_epochs=3, resume=True, compile=True, **options)
    assert len(compiled) == 2
