"""What a user may give as the optimiser, and what is said of the rest."""

from __future__ import annotations

import functools

import pyro
import pytest
import torch
from torch import nn

from pyro_vae import VAE, fit
from pyro_vae.training.optimizers import make_optimizer
from tests.support.programs import weights

REFUSED = {
    "Pyro's": (pyro.optim.Adam({"lr": 1e-3}), "found Pyro's Adam, expected a torch optimiser's class, such as"),
    "LBFGS": (torch.optim.LBFGS, "found LBFGS, which runs the loss several times a step, expected one that steps by"),
    "an optimiser": (
        torch.optim.Adam([nn.Parameter(torch.zeros(1))]),
        "found Adam, expected a function",
    ),
    "a name": ("adam", "found str, expected a function"),
    "another call": (lambda parameters: torch.optim.SGD(parameters, 0.1), "found .*, which fails .*unexpected keyword"),
    "no optimiser": (lambda parameters, lr: lr, "found one that makes a float, expected a torch Optim"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_optimiser_is_named(name):
    optimizer, message = REFUSED[name]
    vae = VAE((4,), 2, (5,))
    with pytest.raises((TypeError, ValueError), match=f"^optimizer: {message}"):
        fit(vae.model, vae.guide, torch.zeros(12, 4), batch_size=6, optimizer=optimizer, progress=False)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, functools.partial(torch.optim.AdamW, weight_decay=0.1), None])
def test_it_is_called_with_the_parameters_and_the_rate(optimizer):
    parameters = [nn.Parameter(torch.zeros(1))]
    made = make_optimizer(optimizer, parameters, 0.25)
    assert made.param_groups[0]["lr"] == 0.25 and made.param_groups[0]["params"] == parameters


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_a_rate_that_goes_wrong_later_is_named_and_the_weights_put_back(rate):
    vae = VAE((4,), 2, (5,))
    before = weights(vae)
    with pytest.raises(
        ValueError, match=rf"^lr: found {rate} at 0.5 of training, expected a finite number, 0 or more$"
    ):
        fit(vae.model, vae.guide, torch.zeros(12, 4), num_epochs=1, batch_size=3, progress=False,
            lr=lambda done: 1e-3 if done < 0.5 else rate)  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(vae).items())
