"""Programs that are no pair, and what is said of each."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn


def normal(size, event_dims=1):
    return dist.Normal(torch.zeros(size), 1.0).to_event(event_dims)


class Program(PyroModule):
    """A program given as a function of itself and the data, with one weight."""

    def __init__(self, run):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def data_plate(x, **options):
    return pyro.plate("data", len(x), dim=-1, **options)


def good_guide(self, x, others=()):
    with data_plate(x):
        pyro.sample("z", dist.Normal(self.weight.expand(len(x), 3), 1.0).to_event(1))
        for name, size in others:
            pyro.sample(name, normal(size))


def good_model(self, x):
    with data_plate(x):
        z = pyro.sample("z", normal(3))
        pyro.sample(
            "x", dist.Normal(self.weight + z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 4]).to_event(1), obs=x
        )


def guide_with_more(self, x):
    good_guide(self, x, [("extra", 2)])


def guide_of_data(self, x):
    good_guide(self, x, [("x", 4)])


def guide_with_less(self, x):
    with data_plate(x):
        self.weight.expand(len(x))


def global_latent(self, x):
    pyro.sample("z", normal(3))


def wrong_plate(self, x):
    with pyro.plate("data", 7, dim=-1):
        pyro.sample("z", normal(3))


def model_without_data(self, x):
    with data_plate(x):
        pyro.sample("z", normal(3))


def missing_to_event(self, x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(self.weight.expand(len(x), len(x)), 1.0))


def missing_to_event_of_one(self, x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(self.weight.expand(len(x), 1), 1.0))


def model_of_scalars(self, x):
    with data_plate(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", normal(4), obs=x)


def model_of_other_data(self, x):
    with data_plate(x):
        pyro.sample("z", normal(3))
        pyro.sample("x", normal(1), obs=x)


def model_of_many_data(self, x):
    with data_plate(x):
        pyro.sample("z", normal(3))
        pyro.sample("x", normal(4, 0), obs=x)


def two_plates(observe):
    def run(self, x):
        with pyro.plate("pixels", 4, dim=-2), data_plate(x):
            z = pyro.sample("z", dist.Normal(self.weight, 1.0))
            if observe:
                pyro.sample("x", dist.Normal(self.weight + z, 1.0), obs=x.T)

    return run


FOUR = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
NO_PAIRS = {
    "a site the model lacks": (
        good_model,
        guide_with_more,
        r"^site 'extra': found in the guide, but the model has the latent sites \['z'\]",
    ),
    "a site the model observes": (
        good_model,
        guide_of_data,
        "^site 'x': found in the guide, but the model observes it",
    ),
    "a site the guide lacks": (
        good_model,
        guide_with_less,
        r"^site 'z': found in the model, but the guide has the latent sites \[\]",
    ),
    "a latent outside the data plate": (
        good_model,
        global_latent,
        "^site 'z': found outside the data plate of the guide, but inside that of the model, expected",
    ),
    "a plate of another size": (
        good_model,
        wrong_plate,
        r"^site 'z': found in a data plate of size 7 in the guide, expected one of size "
        r"len\(x\) = \d+",
    ),
    "no data observed": (
        model_without_data,
        good_guide,
        "^found no observed site in the model, expected one such as pyro.sample",
    ),
    "a guide without to_event": (
        model_of_scalars,
        missing_to_event,
        r"^site 'z': found a log-probability of shape \(\d+, \d+\) in the "
        r"guide, .*\.to_event",
    ),
    "a latent of length one without to_event": (
        model_of_scalars,
        missing_to_event_of_one,
        r"^site 'z': found a log-probability of shape \(\d+, \d+\) in the guide, .*\.to_event",
    ),
    "data of another event shape": (
        model_of_other_data,
        good_guide,
        r"^site 'x': found a value of shape \(\d+, 4\) in the model, expected "
        r"one of a distribution of batch shape \([\d, ]+\) and event shape \(1,\)",
    ),
}
