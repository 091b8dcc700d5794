"""Gradients by the path for guides that remember, normalise, share or cannot be inverted."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError
from tests.support.every_objective import GRADIENTS
from tests.support.programs import weights


class FlowGuide(pyro.nn.PyroModule):
    """A conditional affine autoregressive flow, which remembers how it drew its last sample."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = pyro.distributions.transforms.conditional_affine_autoregressive(2, 4, hidden_dims=[6])

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.ConditionalTransformedDistribution(base, [self.transform]).condition(x))


class TestGuides:
    def test_a_flow_that_remembers_its_draws(self):
        """dreg against reparam in the mean, over repeated data; a remembered draw would lend it live parameters."""
        vae = pyro_vae.VAE((4,), 2, (5,)).double()
        guide = FlowGuide().double()
        x = torch.bernoulli(torch.full((1, 4), 0.5)).double().expand(2000, 4)
        sums: dict[str, list[torch.Tensor]] = {g: [] for g in GRADIENTS}
        for repeat in range(20):
            for gradient, collected in sums.items():
                bound = ELBO(2, gradient=gradient).bound
                torch.manual_seed(repeat)
                found = torch.autograd.grad(bound(vae.model, guide, x).mean(), list(guide.parameters()))
                collected.append(torch.cat([g.flatten() for g in found]))
        reparam, stl, dreg = (torch.stack(collected) for collected in sums.values())
        torch.testing.assert_close(stl, dreg, rtol=1e-9, atol=1e-12)  # one and the same for the ELBO
        difference = reparam - stl
        assert difference.abs().max() > 0.01
        error = difference.std(0) / math.sqrt(20)
        assert (difference.mean(0).abs() < 7 * error + 1e-12).all()  # Student's t of 19: 1e-6 each, of some 60
        assert error.max() < 0.2 * reparam.mean(0).abs().max() and stl.std(0).sum() < reparam.std(0).sum()

    def test_a_flow_without_an_inverse_is_refused(self):
        vae = pyro_vae.VAE((4,), 2, (5,))
        planar = dist.transforms.Planar(2)

        class PlanarGuide(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.planar = planar

            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    base = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
                    pyro.sample("z", dist.TransformedDistribution(base, [self.planar]))

        x = torch.zeros(3, 4)
        assert IWAE(2).bound(vae.model, PlanarGuide(), x).shape == (3,)
        with pytest.raises(ProgramError, match="site 'z': found .*no density at a given value, expected .*inverted"):
            IWAE(2, gradient="dreg").bound(vae.model, PlanarGuide(), x)

    def test_batch_normalisation_is_updated_once_and_means_the_same(self):
        class NormalisedGuide(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    loc, raw = self.net(x).chunk(2, -1)
                    pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

        vae, x = pyro_vae.VAE((4,), 2, (5,)).double(), torch.bernoulli(torch.full((9, 4), 0.5)).double()
        bounds, buffers = [], []
        for gradient in GRADIENTS:
            torch.manual_seed(1)
            guide = NormalisedGuide().double()
            bounds.append(IWAE(3, gradient=gradient).bound(vae.model, guide, x))
            buffers.append({n: b for n, b in weights(guide).items() if "running" in n or "num_batches" in n})
        for bound, held in zip(bounds[1:], buffers[1:], strict=True):
            torch.testing.assert_close(bound, bounds[0], rtol=1e-12, atol=1e-12)
            for name, value in held.items():
                torch.testing.assert_close(value, buffers[0][name], rtol=0, atol=0)

    def test_shared_parameters_keep_the_models_half(self):
        """A prior that uses the encoder: only the guide's own density is held constant."""
        shared = nn.Parameter(torch.full((5,), 0.4).double())

        class Shared(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.loc = shared

        class SharedModel(Shared):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                    pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        class SharedGuide(Shared):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(self.loc, 0.3))

        x = torch.full((5,), 0.7).double()
        model, guide = SharedModel(), SharedGuide()
        torch.manual_seed(3)
        (found,) = torch.autograd.grad(ELBO(gradient="stl").bound(model, guide, x).sum(), shared)
        torch.manual_seed(3)
        z = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["value"].detach()
        by_path = -(z - shared) - (z - x) / 0.25 + (z - shared) / 0.09  # d log w / dz, and dz / d loc = 1
        torch.testing.assert_close(found, (by_path + (z - shared)).detach(), rtol=1e-10, atol=1e-12)


class TestFactors:
    @pytest.mark.parametrize("num_particles", [1, 4])
    @pytest.mark.parametrize("has_rsample", [True, False])
    def test_their_gradient_is_that_of_the_loss_and_of_their_score(self, has_rsample, num_particles):
        """A factor is a part of the loss; one that came of draws without a path has a score beside it."""
        x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
        weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(weight * x, 0.7))
                pyro.factor("own loss", -(z - weight).square(), has_rsample=has_rsample)

        def gradient(loss):
            torch.manual_seed(0)
            return torch.autograd.grad(loss(), weight)[0]

        def by_hand():
            z = weight * x + 0.7 * torch.randn(num_particles, len(x), dtype=torch.float64)
            factor = -(z - weight).square()
            log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
            log_w = log_w - dist.Normal(weight * x, 0.7).log_prob(z) - factor
            signal = log_w.detach() / num_particles
            if num_particles > 1:  # less the mean of the others
                signal = (signal - signal.mean(0)) * num_particles / (num_particles - 1)
            return -(log_w.mean(0) + (0 if has_rsample else 1) * (signal * factor).sum(0)).sum()

        found = gradient(lambda: ELBO(num_particles).differentiable_loss(model, guide, x))
        torch.testing.assert_close(found, gradient(by_hand), rtol=1e-12, atol=0)
        if num_particles == 1:
            pyros = TraceEnum_ELBO(strict_enumeration_warning=False, max_plate_nesting=1)
            expected = gradient(lambda: pyros.differentiable_loss(model, guide, x))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
