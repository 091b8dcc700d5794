"""SVI with our ELBO and fit, beside Pyro's ELBO and SVI on the same draws and from the same weights."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pyro
import torch
from program import Program, started
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from result import Maker, Result, Settings, optimizer, relative
from torch import Tensor
from weights import is_reparameterised, mean_bound, run

import pyro_vae
from pyro_vae.display import with_error

__all__ = ["fit", "svi"]

EPOCHS = 5
STILL = 1e-12  # a learning rate at which nothing moves


def svi(make: Maker, is_changed: bool, settings: Settings) -> Result:
    """One step of SVI with our ELBO: loss and, where all latents are reparameterised, gradient beside Pyro's."""
    losses, gradients = [], []
    for ours in (True, False):
        program = started(make, 0, is_changed)
        objective = pyro_vae.ELBO() if ours else program.pyros()
        call = program.calls[0]
        pyro.set_rng_seed(1)
        objective.loss_and_grads(program.model, program.guide, *call.args, **call.kwargs)
        gradients.append(_gradient(program))
        program = started(make, 0, is_changed)
        before = {name: value.detach().clone() for name, value in _parameters(program).items()}
        pyro.set_rng_seed(1)
        losses.append(program.calls[0](SVI(program.model, program.guide, optimizer(program), loss=objective).step))
        if all(torch.equal(value, before[name]) for name, value in _parameters(program).items()):
            return Result(False, "the step changed no parameter", "no step")
    difference = relative(*losses)
    text = f"loss {losses[0]:.6g}, Pyro's {losses[1]:.6g}, apart by {difference:.0e}"
    short = f"{losses[0]:.6g} ({difference:.0e})"
    if not is_reparameterised(program):
        return Result(difference < 1e-5, text, short)
    apart = _distance(*gradients)
    return Result(difference < 1e-5 and apart < 1e-4, f"{text}; gradients apart by {apart:.0e}", short)


def _parameters(program: Program) -> dict[str, Tensor]:
    own = {} if program.module is None else dict(program.module.named_parameters())
    return {**own, **dict(pyro.get_param_store().named_parameters())}


def _gradient(program: Program) -> dict[str, Tensor]:
    return {name: value.grad for name, value in _parameters(program).items() if value.grad is not None}


def _distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the length of the difference of two gradients over that of the second; infinite if names differ."""
    moved = [{name for name, g in each.items() if g.count_nonzero()} for each in (first, second)]
    if moved[0] != moved[1]:
        return math.inf
    square = sum((first[name] - second[name]).square().sum().item() for name in moved[0])
    return math.sqrt(square / sum(second[name].square().sum().item() for name in moved[0]))


def fit(make: Maker, is_changed: bool, settings: Settings) -> Result:
    """A few epochs of fit: the bound that it reports, and the bound by hand before, after, and after as long by SVI."""
    figures = _reported(make, is_changed)
    program = started(make, 0, is_changed)
    before = mean_bound(program)
    with _Seen() as expected:
        run(program, program.calls[0])
    with _Seen() as seen:
        history = _fit(program, EPOCHS)
    after = mean_bound(program)
    peer = started(make, 0, is_changed)
    trained = SVI(peer.model, peer.guide, optimizer(peer), loss=peer.pyros())
    pyro.set_rng_seed(0)
    for _ in range(EPOCHS):
        for call in peer.calls:
            call(trained.step)
    after_pyro = mean_bound(peer)
    text = f"bound by hand {before:.5g} → {after:.5g}, after Pyro's SVI {after_pyro:.5g}"
    for reported, by_hand, error in figures:
        text += f"; reported untrained {reported:.5g}, by hand {with_error(by_hand, error)}"
    if not expected.sites <= seen.sites:
        missing = sorted(name for name, observed in expected.sites - seen.sites if observed)
        return Result(False, f"trained without observing {missing}: data were dropped; {text}", "data dropped")
    if len(history.records) != EPOCHS or not all(math.isfinite(each["train_bound"]) for each in history.records):
        return Result(False, text, "not finite")
    for reported, by_hand, error in figures:
        if abs(reported - by_hand) > 4 * error + 1e-5 * abs(by_hand):
            return Result(False, text, f"reports {reported:.4g}, by hand {by_hand:.4g}")
    return Result(after > before, text, f"{before:.4g} → {after:.4g} ({after_pyro:.4g})")


def _fit(program: Program, num_epochs: int) -> pyro_vae.History:
    return pyro_vae.fit(
        program.model, program.guide, program.data, num_epochs=num_epochs,
        batch_size=program.batch_size, lr=program.rate, seed=0, progress=False,
    )  # fmt: skip


def _reported(make: Maker, is_changed: bool, num_epochs: int = 60) -> list[tuple[float, float, float]]:
    """Return the mean bounds that fit reports while nothing moves, those by hand, and the errors of the differences.

    These are the true bound, and what is maximised, in which a factor of the guide counts.
    """
    records = _fit(replace(started(make, 0, is_changed), rate=STILL), num_epochs).records
    figures = []
    for found, factors in (
        ([record["train_bound"] for record in records], False),
        ([-record["train_loss"] for record in records], True),
    ):
        program = started(make, 0, is_changed)
        seeds = range(100, 100 + num_epochs)
        expected = [mean_bound(program, [seed], train=True, factors=factors) for seed in seeds]
        error = math.sqrt((statistics.variance(found) + statistics.variance(expected)) / num_epochs)
        figures.append((statistics.mean(found), statistics.mean(expected), error))
    return figures if figures[0][0] != figures[1][0] else figures[:1]


class _Seen(Messenger):
    """The names of the sites that programs run through, and which of them are observed."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: set[tuple[str, bool]] = set()

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.sites.add((msg["name"], msg["is_observed"]))
