"""What annealing refuses or marks, where a number would be wrong and its error small."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from torch.utils.data import DataLoader

from pyro_vae import ProgramError, ais, at_global_means, log_likelihood, sandwich
from pyro_vae.evaluation.streaming import StreamingWeights
from tests.support.shifted import Shifted

FEW = {"num_chains": 4, "num_temperatures": 3, "seed": 0}


def pair_of(prior, guide, likelihood=lambda z: dist.Normal(z, 1.0)):
    """Return programs of one latent z and the observation x."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", likelihood(pyro.sample("z", prior())), obs=x)

    def posterior(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(x))

    return model, posterior


class TestRefused:
    def test_global_latents_at_the_means_of_a_guide_that_does_not_run(self):
        def model(x):
            w = pyro.sample("w", dist.Normal(0.0, 5.0))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(w, 1.0)), 1.0), obs=x)

        def guide(x):
            w = pyro.sample("w", dist.Normal(3.0, 0.1))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal((w + x) / 2, 0.5**0.5))

        x = torch.tensor([2.0, 3.0, 4.0])
        held = at_global_means(model, guide)
        exact = dist.Normal(3.0, 2**0.5).log_prob(x).double()
        torch.testing.assert_close(ais(*held, x, **FEW).values, exact, rtol=0, atol=1e-5)  # q is the posterior
        with pytest.raises(ProgramError, match="^model: found global latents that are held .* to start from the prior"):
            ais(*held, x, start="prior", **FEW)
        with pytest.raises(ProgramError, match="^model: found global latents that are held .* to simulate data"):
            sandwich(*held, x=x, **FEW)

    def test_simulating_a_model_whose_densities_depend_on_what_it_observes(self):
        weights = torch.tensor([[0.0, 0.0], [2.0, 0.0]])

        def autoregressive(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z + x @ weights.T, 1.0).to_event(1), obs=x)

        def by_its_label(x, y):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("y", dist.Bernoulli(0.5), obs=y)
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(6 * y, 1.0)), 1.0), obs=x)

        def guide(x, *_):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(x.shape[1:]), 1.0).to_event(x.dim() - 1))

        message = "found another density where the model is run on the simulated data"
        with pytest.raises(ProgramError, match=f"^site 'x': {message}"):
            sandwich(autoregressive, guide, x=torch.zeros(8, 2), **FEW)
        with pytest.raises(ProgramError, match=f"^site 'z': {message}"):
            sandwich(by_its_label, guide, x=(torch.randn(8), torch.zeros(8)), **FEW)

    def test_a_circle_that_is_said_to_be_a_line(self):
        circle = pair_of(lambda: dist.VonMises(2.5, 1.0), lambda x: dist.VonMises(x, 1.0))
        with pytest.raises(ProgramError, match="^site 'z': found VonMises.*, which takes no path of small steps"):
            ais(*circle, torch.zeros(3), **FEW)

    def test_draws_that_rounding_puts_on_a_bound(self):
        sparse = dist.Dirichlet(0.1 * torch.ones(3))
        model, guide = pair_of(lambda: sparse, lambda x: sparse.expand(x.shape), lambda z: dist.Categorical(z))
        with pytest.raises(ProgramError, match="^site 'z': found .* % of its draws rounded to a bound of the support"):
            ais(model, guide, torch.zeros(200), start="prior", **FEW)

    def test_a_point_mass_beside_a_guide_of_pyros(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

        both = AutoGuideList(model)
        both.append(AutoNormal(pyro.poutine.block(model, hide=["w"])))
        both.append(AutoDelta(pyro.poutine.block(model, hide=["z"])))
        x = torch.zeros(3)
        both(x)
        with pytest.raises(ProgramError, match="^site 'w': found the point mass Delta"):
            ais(model, both, x, batch_size=3, **FEW)


def test_values_made_by_transforms_move_as_the_noise_of_their_base():
    """An exponential above 1, whose support torch calls real: x ~ N(z, 1) by quadrature."""

    def above_one():
        shifts = [torch.distributions.transforms.AffineTransform(1.0, 1.0)]
        return dist.TransformedDistribution(dist.Exponential(torch.ones((), dtype=torch.float64)), shifts)

    x = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    z = torch.linspace(1, 40, 400_001, dtype=torch.float64)[:, None]
    exact = (-(z - 1) + dist.Normal(z, 1.0).log_prob(x)).logsumexp(0) + math.log((z[1] - z[0]).item())
    found = ais(*pair_of(above_one, lambda x: above_one().expand(x.shape)), x, 400, 10, seed=0)
    assert ((found.values - exact).abs() < 5 * found.std_error).all() and found.std_error.max() < 0.1


class TestMarked:
    def test_importance_sampling_with_few_draws(self):
        shifted = Shifted.by(2.5)
        found = ais(shifted.program.model, shifted.program.guide, shifted.x, 16, 1, seed=0)
        assert found.is_heavy.any() and found.mark == "†"

    def test_estimates_of_which_some_are_annealed(self):
        shifted = Shifted.by(3.0)
        programs = shifted.program.model, shifted.program.guide, shifted.x
        annealed = ais(*programs, 16, 2, seed=0)
        both = log_likelihood(*programs, 16, seed=0).replaced(torch.arange(len(shifted.x)), annealed)
        assert torch.equal(both.is_heavy, annealed.is_heavy) and both.mark == "†"
        assert both.caveat().startswith("† a few weights outweigh the others")

    def test_a_sandwich(self):
        shifted = Shifted.by(3.0)
        found = sandwich(shifted.program.model, shifted.program.guide, 20, 16, 2, x=shifted.x, seed=0)
        assert "†, the mean of" in str(found) and found.forwards.caveat() in str(found)

    def test_weights_that_are_not_finite(self):
        weights = StreamingWeights(100)
        log_w = torch.zeros(100, 3)
        log_w[:, 0], log_w[5, 1] = -torch.inf, torch.nan
        weights.update(log_w)
        assert weights.khat().tolist() == [math.inf, math.inf, 0.0]


def test_no_force_is_lost_where_no_gradient_is_recorded():
    shifted = Shifted.by(1.0)
    programs = shifted.program.model, shifted.program.guide, shifted.x
    expected = ais(*programs, 8, 4, seed=0)
    with torch.inference_mode():
        found = ais(*programs, 8, 4, seed=0)
    assert torch.equal(found.values, expected.values)


def test_options_of_a_simulation_stay_as_they_are():
    def model(x, w):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w, 1.0), obs=x)

    def guide(x, w):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    loader = DataLoader([(torch.zeros(4), torch.ones(2))] * 3, batch_size=None)
    found = sandwich(model, guide, 12, 4, 2, x=loader, seed=0)
    assert [tuple(value.shape) for value in found.data.values] == [(12,), (2,)]


def test_a_density_in_another_precision():
    model, guide = pair_of(
        lambda: dist.Normal(0.0, 1.0),
        lambda x: dist.Normal(x / 2, 0.5**0.5),
        lambda z: dist.Normal(z.double(), torch.ones((), dtype=torch.float64)),
    )
    found = ais(model, guide, torch.zeros(3), **FEW)
    torch.testing.assert_close(found.values, dist.Normal(0.0, 2**0.5).log_prob(torch.zeros(3)).double())
