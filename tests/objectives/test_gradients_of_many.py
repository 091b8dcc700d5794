"""Gradients by the score and by dreg of tens of thousands of particles, and of a bound of somebody's own; compiled too.

The signals themselves are compared with their definition in ``test_reductions.py``.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Objective, RenyiBound
from pyro_vae.objectives import gradients as estimators
from pyro_vae.training.checkpoint import as_module
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.support.chain import chain, gradients
from tests.support.every_objective import BOUNDS, EXTREMES
from tests.support.programs import bits, check_close, traced

MANY = 50_000


class BinaryModel(pyro.nn.PyroModule):
    """Three latents of 0 or 1, and 16 pixels."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(3, 16)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((3,), 0.4)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.reshape(len(x), 16))


class BinaryGuide(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(16, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x.reshape(len(x), 16))).to_event(1))


class Squares(Objective):
    """A bound that defines nothing but its reduction."""

    def reduce(self, log_w):
        return log_w.logsumexp(0) - math.log(len(log_w)) - 0.01 * log_w.mean(0).square()


def exact_gradient(model, guide, x):
    """The gradient of log p(x) by the model, and of the ELBO by the guide, as sums over the eight states."""
    z = torch.cartesian_prod(*[torch.arange(2.0)] * 3)[:, None]  # (8, 1, 3)
    log_prior = dist.Bernoulli(torch.full((3,), 0.4)).log_prob(z).sum(-1)
    logits = model.decoder(z)
    log_p = log_prior + dist.Bernoulli(logits=logits).log_prob(x.reshape(len(x), 16)).sum(-1)  # (8, B)
    log_q = dist.Bernoulli(logits=guide.encoder(x.reshape(len(x), 16))).log_prob(z).sum(-1)
    evidence = torch.autograd.grad(log_p.logsumexp(0).sum(), list(model.parameters()))
    elbo = (log_q.exp() * (log_p.detach() - log_q)).sum()
    return evidence, torch.autograd.grad(elbo, list(guide.parameters()))


class TestManyParticles:
    def test_the_score_of_the_elbo_finds_the_exact_gradient(self):
        """The error is that of 50,000 draws: 0.01 of the largest entry and less."""
        torch.manual_seed(0)
        model, guide, x = BinaryModel(), BinaryGuide(), bits(2)
        _, expected = exact_gradient(model, guide, x)
        found = torch.autograd.grad(ELBO(MANY).bound(model, guide, x).sum(), list(guide.parameters()))
        for gradient, exact in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, exact, rtol=0, atol=0.02 * exact.abs().max().item())

    @pytest.mark.parametrize(
        "objective",
        [IWAE(MANY), MIWAE(2, MANY // 2), PIWAE(2, MANY // 2), CIWAE(0.3, MANY), RenyiBound(0.5, MANY)],
        ids=repr,
    )
    def test_the_score_of_other_bounds(self, objective):
        """Of a bound that is all but tight, the model's gradient is that of log p(x)."""
        torch.manual_seed(0)
        model, guide, x = BinaryModel(), BinaryGuide(), bits(2)
        expected, _ = exact_gradient(model, guide, x)
        bound = objective.bound(model, guide, x).sum()
        found = torch.autograd.grad(bound, [*model.parameters(), *guide.parameters()])
        assert all(gradient.isfinite().all() for gradient in found)
        if isinstance(objective, (IWAE, MIWAE)):
            for gradient, exact in zip(found, expected, strict=False):
                torch.testing.assert_close(gradient, exact, rtol=0, atol=0.02 * exact.abs().max().item())

    @pytest.mark.parametrize("name", BOUNDS)
    def test_dreg(self, name):
        """Of the same draws the path alone has the model's gradient of reparam."""
        model, guide, x = chain(2)
        by_path, by_both = (gradients(BOUNDS[name](MANY, gradient=g), model, guide, x) for g in ("dreg", "reparam"))
        for parameter in ("a", "b"):
            torch.testing.assert_close(by_path[parameter], by_both[parameter], rtol=1e-9, atol=1e-12)
        assert all(gradient.isfinite().all() for gradient in by_path.values())

    def test_a_bound_of_ones_own_in_chunks(self, monkeypatch):
        model, guide, x = BinaryModel().double(), BinaryGuide().double(), bits(2).double()
        found = []
        for chunk in (2**24, 1000):
            monkeypatch.setattr(estimators, "_CHUNK", chunk)
            torch.manual_seed(1)
            bound = Squares(60).bound(model, guide, x).sum()
            found.append(torch.autograd.grad(bound, list(guide.parameters())))
        for whole, cut in zip(*found, strict=True):
            torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)


COMPILED = {name: make(4) for name, make in (BOUNDS | EXTREMES).items()} | {"one's own": Squares(4)}


class TestCompiled:
    @pytest.mark.parametrize("name", COMPILED)
    def test_the_score_in_a_compiled_step(self, name):
        results = []
        for kind in (EagerStep, CompiledStep):
            torch.manual_seed(7)
            model, guide = BinaryModel(), BinaryGuide()
            pair = as_module((model, guide))
            step = kind(model, guide, pair, COMPILED[name], **({} if kind is EagerStep else {"lower": traced}))
            with pyro.validation_enabled(False):
                for seed in (1, 2):
                    torch.manual_seed(seed)
                    bounds = step(bits(6))
                    results.append({"bounds": bounds} | {n: p.grad.clone() for n, p in pair.named_parameters()})
        assert step.gradients.reason is None and step.gradients.num_traces == 1
        for eager, compiled in zip(results[:2], results[2:], strict=True):
            check_close(compiled, eager, rtol=1e-4, atol=1e-5)
            assert eager["guide.encoder.weight"].abs().max() > 1e-3
