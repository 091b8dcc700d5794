"""The history of a resumed run is whole: as JSON, bit by bit, that of a run that was not interrupted."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

import pyro_vae
from tests.support.programs import bits, vae

X, VALID = bits(24), bits(7)


def weighed(program):
    return pyro_vae.anneal_kl(program.model, program.guide, pyro_vae.schedules.Linear(num_steps=10))


def plain(program):
    return program.model, program.guide


def as_json(records):
    """The records without their times, as text, so that each bit of each number and the order of the names count."""
    return json.dumps([{name: value for name, value in each.items() if name != "seconds"} for each in records])


@pytest.mark.parametrize("lr", [0.01, lambda done: 0.01 * (1 - done)], ids=["constant", "function"])
@pytest.mark.parametrize(
    ("pair_of", "options"),
    [
        (plain, {"valid": VALID}),
        (weighed, {"valid": VALID, "objective": pyro_vae.IWAE(3)}),
        (plain, {"objective": pyro_vae.ELBO(capacity=pyro_vae.schedules.Linear(num_steps=10))}),
    ],
    ids=["validated", "warmed up", "capacity"],
)
def test_a_resumed_history_is_that_of_an_uninterrupted_run(pair_of, options, lr, tmp_path):
    def fit(*callbacks, **others):
        torch.manual_seed(7)
        return pyro_vae.fit(
            *pair_of(vae()), X, num_epochs=5, batch_size=6, lr=lr, seed=0, progress=False, callbacks=callbacks,
            **options, **others,
        )  # fmt: skip

    def stop_at(epoch):
        return lambda record: os.kill(os.getpid(), signal.SIGINT) if record["epoch"] == epoch else None

    whole = fit(checkpoint=tmp_path / "whole")
    stopped = [fit(stop_at(2), checkpoint=tmp_path / "run")]
    stopped.append(fit(stop_at(3), checkpoint=tmp_path / "run", resume=True))
    assert [(len(each.records), each.interrupted) for each in stopped] == [(2, True), (3, True)]
    resumed = fit(checkpoint=tmp_path / "run", resume=True)
    assert not resumed.interrupted and not resumed.stopped_early
    assert as_json(resumed.records) == as_json(whole.records)
    assert resumed.best["epoch"] == whole.best["epoch"]
    lines = [(tmp_path / each / "metrics.jsonl").read_text().splitlines() for each in ("run", "whole")]
    assert as_json(map(json.loads, lines[0])) == as_json(map(json.loads, lines[1])) == as_json(whole.records)
    again = fit(checkpoint=tmp_path / "run", resume=True)  # nothing is left to do
    assert again.records == resumed.records and all(type(record["seconds"]) is float for record in again.records)
