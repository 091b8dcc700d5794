"""Latents of all data at once under ranks: the gradient of a whole batch, unbiased, whatever each rank draws."""

from __future__ import annotations

import pytest
import torch

import pyro_vae
from pyro_vae.compilation import compiled
from tests.ranks import global_latents
from tests.support import groups
from tests.support.global_latents import X, exact_elbo, pair
from tests.support.programs import traced


@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.cross)])
def test_a_run_is_gradient_descent_on_the_shares(size, tmp_path):
    """Of three ranks, one has no share of the last batch of two."""
    if size == 1:
        results = [global_latents.global_latents()]
    else:
        for process in groups.start(size, tmp_path, "global_latents"):
            assert process.returncode == 0, process.stderr
        results = groups.results(tmp_path, "global_latents", size)
    for found, error in results:
        for (kind, name, is_global), each in found.items():
            expected = global_latents.by_hand(size, is_global)
            assert (each - expected).abs().max() < 1e-9, (kind, name, is_global)
        if size == 1:
            assert error is None
        else:
            assert error.startswith("ProgramError: site 'w': found outside the data plate, which holds ")
            assert "of 6 data, as ranks share each batch, expected one process for wake-sleep, or an" in error


@pytest.mark.parametrize("kind", ["N", "by hand"])
def test_the_same_compiled(kind, monkeypatch):
    monkeypatch.setattr(compiled, "inductor", traced)
    pair = global_latents.Pair(kind)
    records = global_latents.fit(pair, pyro_vae.ELBO(2), compile=True).records
    found = global_latents.state_of(pair, [record["train_bound"] for record in records])
    assert (found - global_latents.by_hand(1, True)).abs().max() < 1e-9


def test_the_expectation_over_draws_is_the_gradient_of_all_data():
    """Each share adds its data times its loss, and the mean over both draws of W is exact."""
    guide = pair(shift=0.0)[1]
    parameters = [guide.loc, guide.log_scale]
    expected = torch.autograd.grad(-exact_elbo(guide, X, len(X)) / len(X), parameters)
    found = torch.autograd.grad(sum(global_latents.loss(guide, X, rank) for rank in range(2)) / 2, parameters)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
