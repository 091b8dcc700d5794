"""Runs on ranks that are interrupted and go on, with a scheduler, an optimiser or a guide of one's own."""

from __future__ import annotations

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae.runtime.ranks import ranks
from tests.ranks.given_noise import B, GivenNoise, Rows, data, fit
from tests.ranks.scenarios import stop


class Own(torch.optim.Optimizer):
    """Momentum whose state is a tensor and a number, made as it is first needed."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr, "decay": 0.9})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                state["times"] = state.get("times", 0) + 1
                mean.mul_(group["decay"]).add_(parameter.grad)
                parameter.sub_(group["lr"] / state["times"] ** 0.5 * mean)


class Auto(nn.Module):
    """A model of one global latent, and Pyro's guide of it, which begins at a draw of each rank's own."""

    def __init__(self):
        super().__init__()
        self.num_steps, self.at_step = 0, {}
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.guide = AutoNormal(self.model, init_loc_fn=pyro.infer.autoguide.init_to_sample)

    def model(self, x, noise):
        pyro.module("scale", self._parameters_of_model())
        if torch.is_grad_enabled() and self.training:
            self.num_steps += 1
            self.at_step.get(self.num_steps, lambda: None)()
        w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(w, self.scale.abs() + 0.1).to_event(1), obs=x)

    def _parameters_of_model(self):
        return nn.ParameterList([self.scale])


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05)


def own_draws():
    return GivenNoise(is_given=False)


def loader():
    """Return a loader with a generator of its own on each rank."""
    return DataLoader(Rows(), B, shuffle=True, generator=torch.Generator().manual_seed(3 + ranks().rank))


CASES = {
    "a scheduler on the validation loss": (own_draws, {"scheduler": plateau, "valid": data(20), "lr": 0.05}),
    "a scheduler on the training loss": (own_draws, {"scheduler": plateau, "lr": 0.05, "x": loader}),
    "an optimiser": (own_draws, {"optimizer": Own, "clip_norm": 1.0}),
    "an optimiser beside a scheduler": (own_draws, {"optimizer": Own, "scheduler": plateau, "valid": data(20)}),
    "an autoguide": (Auto, {"objective": pyro_vae.IWAE(3)}),
}


def resuming(folder):
    """Run each case in one go, and again with an interruption in the third epoch; each rank has its own weights."""
    found = {}
    for case, (make, options) in CASES.items():
        for name in ("whole", "parts", "parts"):
            torch.manual_seed(len(found) + ranks().rank)
            pair, resume = make(), (case, "interrupted") in found
            if name == "parts" and not resume:
                pair.at_step = {17: lambda: stop(ranks().size - 1)}
            x = options["x"]() if "x" in options else None
            history = fit(
                pair, x, num_epochs=5, checkpoint=Path(folder) / f"{case} {name}-{ranks().size}", resume=resume,
                **{key: value for key, value in options.items() if key != "x"},
            )  # fmt: skip
            key = "whole" if name == "whole" else "resumed" if resume else "interrupted"
            weights = {name: value.clone() for name, value in pair.state_dict().items()}
            found[case, key] = weights, [record["learning_rate"] for record in history.records]
    return found
