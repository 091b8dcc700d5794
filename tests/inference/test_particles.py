"""Particles of programs that take a dimension of them, and of those that do not: the same weights in every way."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ReweightedWakeSleep, log_weights
from tests.support.one_particle import X, draws_and_weights, programs
from tests.support.tutorial_runs import Tutorial

pytestmark = pytest.mark.usefixtures("double")
WAYS = [True, "repeat", False]


class TestEveryWay:
    @pytest.mark.parametrize("way", WAYS)
    def test_the_weights_are_the_formula(self, way):
        pair = programs()
        z, log_w = draws_and_weights(pair, way)
        assert z.shape == (4, 5, 2) and log_w.shape == (4, 5)
        log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_p = log_p + dist.Normal(pair.decoder.layer(z), 1.0).log_prob(X).sum(-1)
        log_q = dist.Normal(pair.encoder(X), 0.8).log_prob(z).sum(-1)
        torch.testing.assert_close(log_w, log_p - log_q, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("gradient", ["reparam", "stl", "dreg"])
    @pytest.mark.parametrize("make", [ELBO, IWAE, lambda *a, **o: pyro_vae.PIWAE(2, 2, **o)])
    def test_gradients_of_the_same_draws(self, make, gradient):
        """The draws of the plate, given to the other ways as noise of the guide."""
        noise = torch.randn(4, 5, 2)

        class Noised(dist.Normal):
            def rsample(self, sample_shape=()):
                k = self.batch_shape[0] if len(self.batch_shape) > 2 else 1
                used = noise[Noised.used : Noised.used + k]
                if k == 1 and self.loc.shape[-2] == 20:  # repeated
                    used = noise.reshape(1, 20, 2)
                Noised.used += k
                return self.loc + self.scale * used.reshape(self.loc.shape)

        found = []
        for way in WAYS:
            pair, Noised.used = programs(), 0
            pair.guide_distribution = Noised

            def guide(x, pair=pair):
                pyro.module("encoder", pair.encoder)
                with pyro.plate("data", len(x)):
                    pyro.sample("z", Noised(pair.encoder(x), torch.full((2,), 0.8)).to_event(1))

            if gradient != "reparam":  # constants need a guide that is a module
                guide = Wrapped(pair.encoder, guide)
            loss = make(4, gradient=gradient, vectorize_particles=way).differentiable_loss(pair.model, guide, X)
            used = [*pair.encoder.parameters(), *pair.decoder.parameters()]
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, used)]))
        assert found[0].abs().max() > 0.1
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("objective", [ReweightedWakeSleep, IWAE])
    def test_scores_and_wake_sleep(self, way, objective):
        """The tutorial with a discrete label: the bound is finite and reaches every parameter that it should."""
        m2 = Tutorial("M2")
        loss = objective(3, vectorize_particles=way).differentiable_loss(m2.model, m2.guide, m2.x)
        loss.backward()
        for name, parameter in m2.module.named_parameters():
            assert (parameter.grad is None) == (name in m2.idle_names), name

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("name", ["VAE", "M2", "M2 labelled", "CVAE", "DMM"])
    def test_tutorials(self, name, way):
        if way == "repeat" and name not in ("VAE", "M2"):
            pytest.skip("the arguments that are bound beforehand are not repeated")
        tutorial = Tutorial(name)
        torch.manual_seed(0)
        log_w = log_weights(tutorial.model, tutorial.guide, tutorial.x, 3, vectorize_particles=way)
        assert log_w.shape == (3, len(tutorial.x)) and (log_w[0] != log_w[1]).any()
        if way is False:
            torch.manual_seed(0)
            alone = [log_weights(tutorial.model, tutorial.guide, tutorial.x) for _ in range(3)]
            torch.testing.assert_close(log_w, torch.cat(alone), rtol=0, atol=1e-12)


class Wrapped(nn.Module):
    def __init__(self, encoder, run):
        super().__init__()
        self.encoder, self.run = encoder, (run,)

    def forward(self, x):
        return self.run[0](x)
