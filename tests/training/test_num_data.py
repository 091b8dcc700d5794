"""How many data there are, said by the batches, a plate or a scale: the same posterior and bound in each way."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import ELBO, IWAE, ProgramError, fit
from tests.support.global_latents import X
from tests.support.pairwise import in_turn

OPTIONS = {"batch_size": 4, "progress": False, "seed": 0}  # batches of 4 and of the 2 that are left
N = len(X)
OBJECTIVES = {"elbo": ELBO(8), "iwae": IWAE(2), "pyro": Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=1)}


class Weighed(nn.Module):
    """A program of one global latent, whose data have a scale or a plate that says how many there are."""

    def __init__(self, kind: str, is_model: bool) -> None:
        super().__init__()
        self.kind, self.is_model = kind, is_model
        self.loc, self.log_scale = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.3, -0.5))

    def forward(self, x):
        if not self.is_model:
            pyro.module("guide", self)
            pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()))
            return
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        size, part = {"N": (N, len(x)), "half": (len(x), len(x) // 2)}.get(self.kind, (len(x), len(x)))
        scale = {"by hand": N / len(x), "another": 5.0}.get(self.kind, 1.0)
        with pyro.plate("data", size, subsample_size=part) as rows, poutine.scale(scale=scale):
            pyro.sample("x", dist.Normal(w, 2**0.5), obs=x[: len(rows)] if self.kind == "N" else x[rows])


@pytest.mark.parametrize(("kind", "objective"), in_turn(["len(x)", "N", "half", "by hand"], OBJECTIVES))
def test_every_way_to_say_how_many_data_there_are(kind, objective):
    """The posterior is N(Σ x / 8, 1/4), and the bound of a datum the evidence over 6, whichever way it is said.

    Over the last 200 epochs, within 5 standard errors; those of successive epochs hardly depend on each other.
    """
    model, guide = Weighed(kind, True), Weighed(kind, False)
    with pytest.warns(UserWarning, match="no gradient of 2 parameters"):  # the model's, which it does not use
        history = fit(
            model, guide, X, objective=OBJECTIVES[objective], num_epochs=250, lr=lambda t: 0.01 * (1 - t), **OPTIONS
        )
    assert (guide.loc - X.sum() / 8).abs() < 0.08
    assert (guide.log_scale.exp() - 0.5).abs() < 0.05
    covariance = 2 * torch.eye(N, dtype=torch.float64) + 1.0
    evidence = torch.distributions.MultivariateNormal(torch.zeros(N, dtype=torch.float64), covariance).log_prob(X) / N
    bounds = torch.tensor([record["train_bound"] for record in history.records[-200:]])
    assert (bounds.mean() - evidence).abs() < 5 * bounds.std() / 200**0.5 + 0.01


def test_a_scale_that_is_no_subsample():
    with pytest.raises(
        ProgramError, match="^site 'w': found outside the data plate, whose sites have 5 times its scale"
    ):
        fit(Weighed("another", True), Weighed("another", False), X, num_epochs=1, **OPTIONS)
