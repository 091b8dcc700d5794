"""Posteriors whose covariance is far from diagonal: bounds and gradients in float32 are those in float64.

The prior is wide, so that log p(z) is small beside log q(z), and log q(z) by a solver would be wrong by more than 1e3.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import ELBO, IWAE, MLP, FullNormal, LowRankNormal, ReweightedWakeSleep, WakeSleep, log_weights
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.diagnostics.mutual_information import information
from pyro_vae.flows import gaussian
from pyro_vae.flows.gaussian import FactorNormal, TriangularNormal
from pyro_vae.training.checkpoint import as_module
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.support.programs import check_close, traced

D, NUM_DATA = 6, 4
X = torch.randn(NUM_DATA, 3, generator=torch.Generator().manual_seed(0))
OBJECTIVES = {
    "ELBO": lambda **options: ELBO(3, **options),
    "ELBO, stl": lambda **options: ELBO(3, gradient="stl", **options),
    "IWAE": lambda **options: IWAE(3, **options),
    "IWAE, dreg": lambda **options: IWAE(3, gradient="dreg", **options),
    "wake-sleep": lambda **options: WakeSleep(3, **options),
    "reweighted": lambda **options: ReweightedWakeSleep(3, **options),
}


class Scaled(nn.Module):
    """A network with small scales, and all that makes a covariance not diagonal large."""

    def __init__(self, kind, off, raw):
        super().__init__()
        shape = FullNormal.num_outputs(D) if kind == "full" else (2 + 2, D)
        self.network = MLP(3, shape, (5,))
        self.kind, self.off, self.raw = kind, off, raw

    def forward(self, x):
        output = self.network(x)
        if self.kind == "full":
            loc, raw, below = output.split([D, D, output.shape[-1] - 2 * D], -1)
            return torch.cat([loc, raw + self.raw, self.off * below], -1)
        loc, raw, factor = output.split([1, 1, 2], -2)
        return torch.cat([loc, raw + self.raw, self.off * factor], -2)


class Model(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(D, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1e4).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z / 1e4), 1.0).to_event(1), obs=x)


class Guide(pyro.nn.PyroModule):
    def __init__(self, kind="full", off=1e3, raw=-4.0, replaced=None):
        super().__init__()
        network = Scaled(kind, off, raw)
        self.posterior = FullNormal(network) if kind == "full" else LowRankNormal(network, 2)
        self.replaced = replaced

    def forward(self, x):
        q = self.posterior(x)
        if self.replaced == "full":
            q = dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril)
        elif self.replaced == "low rank":
            q = dist.LowRankMultivariateNormal(q.loc, q.cov_factor, q.cov_diag)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", q)


def make(dtype=torch.float32, **options):
    torch.manual_seed(3)
    return Model().to(dtype), Guide(**options).to(dtype)


@pytest.fixture
def same_noise(monkeypatch):
    """The same noise for the same seed in float32 and in float64."""
    monkeypatch.setattr(gaussian, "_normal", lambda like, shape: torch.randn(shape).to(like.dtype))


@pytest.mark.usefixtures("same_noise")
class TestFloat32IsFloat64:
    @pytest.mark.parametrize("way", [True, "repeat", False])
    @pytest.mark.parametrize("name", OBJECTIVES)
    @pytest.mark.parametrize("kind", ["full", "low rank"])
    def test_bounds(self, kind, name, way):
        found = []
        for dtype in (torch.float32, torch.float64):
            model, guide = make(dtype, kind=kind)
            torch.manual_seed(0)
            found.append(OBJECTIVES[name](vectorize_particles=way).bound(model, guide, X.to(dtype)).double())
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-3)

    @pytest.mark.parametrize("name", ["ELBO", "IWAE"])
    @pytest.mark.parametrize("kind", ["full", "low rank"])
    def test_gradients(self, kind, name):
        found = []
        for dtype in (torch.float32, torch.float64):
            model, guide = make(dtype, kind=kind)
            torch.manual_seed(0)
            bound = OBJECTIVES[name]().bound(model, guide, X.to(dtype))
            found.append(torch.autograd.grad(bound.sum(), [*model.parameters(), *guide.parameters()]))
        for single, double in zip(*found, strict=True):
            torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4 * double.abs().max().item())

    @pytest.mark.parametrize("way", [True, False])
    def test_a_latent_that_all_particles_share(self, way):
        """With one run a particle, the later ones are given the latent that the first has drawn."""

        def model(x):
            pyro.sample("w", dist.Normal(x.new_zeros(D), 1e4).to_event(1))
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x)

        found = []
        for dtype in (torch.float32, torch.float64):
            inner = make(dtype)[1].posterior

            def guide(x, inner=inner):
                pyro.sample("w", inner(x.new_ones(3)))
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(x.new_zeros(()), 1e-6))  # one value in both

            torch.manual_seed(0)
            objective = IWAE(3, vectorize_particles=way)
            found.append(torch.as_tensor(objective.loss(model, guide, X.to(dtype))))
        assert (found[0] - found[1]).abs() < 1e-3 * found[1].abs()


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_auto_takes_the_plate(kind):
    """The weights of single runs on the same latents are the same, so there is no warning, which would be an error."""
    model, guide = make(kind=kind)
    found = []
    for way in ("auto", True):
        torch.manual_seed(0)
        found.append(log_weights(model, guide, X, 5, vectorize_particles=way))
    assert found[0].shape == (5, NUM_DATA) and torch.equal(*found)


def test_densities_of_given_draws_that_mean_nothing_are_told():
    with pytest.warns(UserWarning, match=r"^guide: found densities of its draws that are off by up to .* nats, as"):
        information(*make(kind="full"), X)
    assert information(*make(kind="low rank"), X).kl > 0  # where float64 suffices


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_gradients_are_torchs_where_these_are_exact(kind, name, double):
    found = []
    for replaced in (None, kind):
        model, guide = make(torch.float64, kind=kind, off=0.5, raw=0.0, replaced=replaced)
        torch.manual_seed(0)
        loss = OBJECTIVES[name]().estimate(model, guide, X.double()).loss
        found.append([loss, *torch.autograd.grad(loss, [*model.parameters(), *guide.parameters()])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


@pytest.fixture
def without_validation():
    """As in ``fit``; a distribution that checks its arguments reads their values."""
    with pyro.validation_enabled(False):
        yield


@pytest.mark.usefixtures("without_validation")
class TestCompiled:
    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            pytest.param(
                kind, name, marks=() if (i % 2 == 0) == (kind == "full") and i in (0, 3, 4) else pytest.mark.cross
            )
            for kind in ("full", "low rank")
            for i, name in enumerate(OBJECTIVES)
        ],
    )
    def test_the_step(self, kind, name):
        found = []
        for step_of in (EagerStep, CompiledStep):
            model, guide = make(kind=kind)
            pair = as_module((model, guide)).train()
            options = {} if step_of is EagerStep else {"lower": traced}
            step = step_of(model, guide, pair, OBJECTIVES[name](), **options)
            for seed in (1, 2):
                torch.manual_seed(seed)
                bounds = step(X)
            found.append({"bounds": bounds} | {key: each.grad for key, each in pair.named_parameters()})
        check_close(*found, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["full", "low rank"])
    def test_the_weights(self, kind):
        model, guide = (half.eval() for half in make(kind=kind))

        def weigh(x):
            with torch.no_grad():
                return [log_weights(model, guide, x, 5, vectorize_particles=True)]

        compiled, found = Compiled(weigh, [model, guide], lower=traced), []
        for function in (compiled, compiled, weigh):
            torch.manual_seed(0)
            found += function(X)
        assert compiled.reason is None
        torch.testing.assert_close(found[1], found[2], rtol=1e-5, atol=1e-4)


def test_what_they_are():
    x = torch.zeros(2, 3)
    assert isinstance(make(kind="full")[1].posterior(x), TriangularNormal)
    assert isinstance(make(kind="low rank")[1].posterior(x), FactorNormal)
