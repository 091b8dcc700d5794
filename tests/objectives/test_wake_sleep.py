"""Wake-sleep and reweighted wake-sleep: each phase against its formula, and what both lead to."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, ReweightedWakeSleep, WakeSleep


class Dreamer(pyro.nn.PyroModule):
    """x, z ~ N(0, 1) with correlation 0.6; the best guide for dreams is its posterior N(0.6 x, 0.8)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(()))
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.6 * z, 0.8), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.slope * x, self.log_scale.exp()))


@pytest.mark.parametrize(
    "objective",
    [
        WakeSleep(),
        ReweightedWakeSleep(8),
        pytest.param(ReweightedWakeSleep(64, guide_phase="wake"), marks=pytest.mark.cross),
    ],
    ids=repr,
)
def test_wake_sleep_teaches_the_guide_the_posterior(objective):
    program, x = Dreamer(), torch.randn(2000)
    optimizer = torch.optim.Adam(program.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        (objective.differentiable_loss(program.model, program.guide, x) / len(x)).backward()
        optimizer.step()
    assert program.slope.item() == pytest.approx(0.6, abs=0.08)
    assert program.log_scale.exp().item() == pytest.approx(0.8, abs=0.08)


def test_the_sleep_phase_is_the_gradient_of_log_q_on_dreams():
    """At the start q is N(0, 1): the gradient by its slope is the mean of z x over dreams, by its log scale z² - 1."""
    program, x = Dreamer(), torch.zeros(40_000)
    WakeSleep().differentiable_loss(program.model, program.guide, x).backward()
    slope, log_scale = (-program.slope.grad / len(x)).item(), (-program.log_scale.grad / len(x)).item()
    assert slope == pytest.approx(0.6, abs=4.5 * math.sqrt(1 + 0.6**2) / 200)  # a false alarm in 150,000 runs
    assert log_scale == pytest.approx(0.0, abs=4.5 * math.sqrt(2) / 200)


def test_the_wake_phase_is_the_models_gradient_alone(vae, x):
    for objective, reference in ((WakeSleep(4), ELBO(4)), (ReweightedWakeSleep(4, guide_phase="wake"), IWAE(4))):
        gradients = []
        for each in (objective, reference):
            vae.zero_grad()
            torch.manual_seed(3)
            each.differentiable_loss(vae.model, vae.guide, x).backward()
            gradients.append([p.grad.clone() for p in vae.model.parameters()])
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_reweighted_wake_phase_of_the_guide_is_weighed_scores(vae, x):
    torch.manual_seed(3)
    ReweightedWakeSleep(4, guide_phase="wake").differentiable_loss(vae.model, vae.guide, x).backward()
    found = [p.grad.clone() for p in vae.guide.parameters()]
    vae.zero_grad()
    torch.manual_seed(3)
    with torch.no_grad():
        trace = pyro.poutine.trace(pyro.plate("k", 4, dim=-2)(vae.guide)).get_trace(x)
    z = trace.nodes["z"]["value"]
    log_q = vae.posterior(x).log_prob(z)
    log_p = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    (-((log_p - log_q).softmax(0).detach() * log_q).sum()).backward()
    for gradient, parameter in zip(found, vae.guide.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)


def test_dreams_do_not_move_batch_statistics(x):
    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3)).double()

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.network(x), 1.0).to_event(1))

    model, guide = pyro_vae.VAE((5,), 3, (7,)).double().model, Guide()
    WakeSleep().differentiable_loss(model, guide, x).backward()
    norm = guide.network[1]
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * guide.network[0](x).mean(0).detach())


def test_without_gradients_there_is_no_dream(vae, x):
    with torch.no_grad():
        before = torch.get_rng_state()
        estimate = WakeSleep(2).estimate(vae.model, vae.guide, x)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        pyro_vae.log_weights(vae.model, vae.guide, x, 2)
    assert not estimate.loss.requires_grad and torch.equal(after, torch.get_rng_state())


def test_a_model_that_does_not_observe_just_the_data_cannot_dream_them():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, 0], torch.ones((), requires_grad=True)))

    def two_sites(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("y", dist.Normal(z, 1.0), obs=x[:, 1])

    def half_of_the_data(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[:, 0])

    x = torch.zeros(3, 2)
    for model, message in (
        (two_sites, r"found the observed sites \['x', 'y'\], expected one"),
        (half_of_the_data, r"site 'x': found simulated values of shape \(3,\), expected data of shape \(3, 2\)"),
    ):
        with pytest.raises(ProgramError, match=message):
            WakeSleep().bound(model, guide, x)
        assert ReweightedWakeSleep(2, guide_phase="wake").bound(model, guide, x).shape == (3,)
