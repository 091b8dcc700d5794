"""The latents of any pair as noise: there and back, the densities of draws, and gradients by differences."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import ProgramError
from pyro_vae.data.batch import Arguments
from pyro_vae.inference.handlers import FromPrior
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.noise_space import NoiseSpace, at_noise
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import way_of
from pyro_vae.inference.running import run
from tests.support.exact import equal
from tests.support.movable import MOVABLE, NOT_GAUSSIAN, WITHOUT_A_PLATE
from tests.support.noises import DISTRIBUTIONS

pytestmark = pytest.mark.usefixtures("double")
K = 4


def space_of(model, guide, x, num_particles=K):
    """A pair and its space, as an annealed run makes them."""
    programs = ProgramPair(model, guide, vectorize_particles="auto").isolated()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that particles are not drawn in a plate
        way = way_of(programs, x, shares_globals=False) if num_particles > 1 else True
    return programs, NoiseSpace(programs, trace_pair(programs, x), way)


def weights_in(pair):
    return torch.stack(list(pair.terms().values())).sum(0).detach()


@pytest.mark.parametrize("name", MOVABLE)
def test_draws_have_their_own_weights_and_the_density_of_their_noise(name):
    model, guide, x = MOVABLE[name]()
    programs, space = space_of(model, guide, x)
    assert (space.way is not True) == (name in WITHOUT_A_PLATE)
    pair = trace_pair(programs, x, K)
    noise = space.noise_in(pair).detach()
    assert noise.shape == (K, len(x), space.num_dims)
    assert (noise.std((0, 1)) > 1e-3).all()  # all of them were drawn
    log_noise, log_w = space.log_densities(x, noise)
    torch.testing.assert_close(log_w.detach(), weights_in(pair), rtol=1e-9, atol=1e-9)
    if name not in NOT_GAUSSIAN:
        equal(log_noise.detach(), dist.Normal(0.0, 1.0).log_prob(noise).sum(-1))


@pytest.mark.parametrize("name", MOVABLE)
def test_each_particle_of_each_datum_has_gradients_of_its_own(name):
    """Central differences in one direction a particle: all at once, as none depends on another's noise."""
    model, guide, x = MOVABLE[name]()
    programs, space = space_of(model, guide, x)
    noise = space.noise_in(trace_pair(programs, x, K)).detach()
    direction = torch.randn_like(noise)
    point = at_noise(space.point, x, noise)
    step = 1e-5
    before, after = (space.log_densities(x, noise + sign * step * direction) for sign in (-1, 1))
    for low, high, gradient in zip(before, after, (point.noise_gradient, point.w_gradient), strict=True):
        found = (high - low).detach() / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(-1), found, rtol=1e-5, atol=1e-6)
    alone = at_noise(space.point, x, noise[-1:])
    for found, expected in zip(alone, point, strict=True):
        torch.testing.assert_close(found[0], expected[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in MOVABLE if name != "AutoNormal"])
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_latents_of_the_model_become_noise(name, start):
    """Those of a run of the model: at their noise, the weight is that of the latents themselves."""
    model, guide, x = MOVABLE[name]()
    programs, space = space_of(model, guide if start == "guide" else FromPrior(model), x)
    drawn = poutine.trace(poutine.uncondition(programs.model)).get_trace(x)
    noise = space.noise_of(x, drawn)
    assert noise.shape == (1, len(x), space.num_dims)
    log_w = space.log_densities(x, noise)[1]
    torch.testing.assert_close(log_w.detach(), weights_in(run(programs, x, given=drawn)), rtol=1e-8, atol=1e-8)


def test_several_arguments_are_handed_on():
    def model(x, y, scale=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x, y, scale=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x + y, 0.8))

    x = Arguments(torch.randn(5), y=torch.randn(5), scale=0.5)
    _programs, space = space_of(model, guide, x)
    noise = torch.randn(K, 5, 1)
    point = at_noise(space.point, x, noise)
    z = (0.3 * x.args[0] + x.kwargs["y"] + 0.8 * noise[..., 0]).detach()
    expected = dist.Normal(x.kwargs["y"], 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(x.args[0])
    equal(point.log_w, expected - dist.Normal(0.3 * x.args[0] + x.kwargs["y"], 0.8).log_prob(z))


def test_where_all_is_masked_nothing_pulls():
    model, guide, x = MOVABLE["numbers"]()
    _programs, space = space_of(*(poutine.mask(each, mask=False) for each in (model, guide)), x)
    point = at_noise(space.point, x, torch.randn(K, len(x), 2))
    assert (point.log_w == 0).all() and (point.w_gradient == 0).all()
    equal(point.noise_gradient, -point.noise)


def pair_with(model_fn, guide_fn=None):
    """z from one distribution, x = z + noise; a guide of the same or another."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", model_fn())
            pyro.sample("x", dist.Normal(z.reshape(len(x), -1).sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", (guide_fn or model_fn)())

    return model, guide


X = torch.linspace(-1.0, 1.0, 3, dtype=torch.float64)


class TestRefusals:
    @pytest.mark.parametrize(
        "fn",
        [
            lambda: dist.Bernoulli(0.5),
            lambda: dist.Poisson(3.0),
            lambda: dist.Delta(torch.tensor(0.5)),
            lambda: dist.ProjectedNormal(torch.ones(3)),
        ],
    )
    def test_a_latent_that_takes_no_small_steps(self, fn):
        message = r"^site 'z': found (Bernoulli|Poisson|Delta|ProjectedNormal)\(.*which takes no path of small steps"
        with pytest.raises(ProgramError, match=message), pyro.validation_enabled(False):
            space_of(*pair_with(fn), X, 1)

    def test_a_guide_without_latents(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        with pytest.raises(ProgramError, match="^guide: found no latent, expected one or more that can be moved"):
            space_of(model, lambda x: None, X)

    @pytest.mark.parametrize("where", ["z", "x"])
    def test_a_plate_that_subsamples_what_belongs_to_one_datum(self, where):
        """The weight of a latent would be another at each step."""
        size = {"z": None, "x": None} | {where: 2}

        def model(x):
            with pyro.plate("data", 3, dim=-2):
                with pyro.plate("inner z", 4, subsample_size=size["z"], dim=-1):
                    z = pyro.sample("z", dist.Normal(torch.zeros(3, 1), 1.0))
                with pyro.plate("inner x", 4, subsample_size=size["x"], dim=-1) as i:
                    pyro.sample("x", dist.Normal(z.mean(-1, keepdim=True), 1.0), obs=x[:, i])

        def guide(x):
            with pyro.plate("data", 3, dim=-2), pyro.plate("inner z", 4, subsample_size=size["z"], dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(3, 1), 1.0))

        message = f"^site '{where}': found in a plate that draws a subsample, expected one of all members"
        with pytest.raises(ProgramError, match=message):
            space_of(model, guide, torch.randn(3, 4), 1)

    def test_a_flow_without_an_inverse_has_its_density_from_the_noise(self):
        planar = dist.transforms.planar(2)
        normal = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        pair = pair_with(lambda: normal, lambda: dist.TransformedDistribution(normal, [planar]))
        _programs, space = space_of(*pair, X, 1)
        noise = torch.randn(1, 3, 2)
        log_noise, log_w = space.log_densities(X, noise)
        z = planar(noise)
        log_q = normal.log_prob(noise) - planar.log_abs_det_jacobian(noise, z)
        model = poutine.trace(poutine.condition(pair[0], data={"z": z[0]})).get_trace(X)
        torch.testing.assert_close(log_noise, normal.log_prob(noise))
        torch.testing.assert_close(log_w.sum(), model.log_prob_sum() - log_q.sum())

    def latents(self, model):
        return poutine.trace(poutine.uncondition(model)).get_trace(X)

    def test_a_guide_with_sites_of_its_own(self):
        model, guide, x = MOVABLE["AutoNormal"]()
        _programs, space = space_of(model, guide, x)
        with pytest.raises(
            ProgramError, match="^site 'rate_unconstrained': found in the guide alone, expected the lat"
        ):
            space.noise_of(x, poutine.trace(poutine.uncondition(model)).get_trace(x))

    @pytest.mark.parametrize(
        "narrow",
        [
            lambda: dist.Uniform(-0.1, 0.1),  # whose bijection would take what lies outside to the end
            lambda: dist.Gamma(torch.tensor(1.0), 1.0),
            lambda: dist.Uniform(-0.1, 0.1).mask(torch.tensor(True)),
        ],
    )
    def test_a_guide_that_does_not_cover_the_model(self, narrow):
        model, guide = pair_with(lambda: dist.Normal(-3.0, 1.0), narrow)
        _programs, space = space_of(model, guide, X, 1)
        with pytest.raises(ProgramError, match="^guide: found latents of the model outside of its support, expected"):
            space.noise_of(X, self.latents(model))

    def test_a_guide_without_an_inverse(self):
        normal = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        model, guide = pair_with(lambda: normal, DISTRIBUTIONS["planar"])
        _programs, space = space_of(model, guide, X, 1)
        with pytest.raises(
            ProgramError, match="^guide: found a flow without an inverse, expected one, or start='prior'"
        ):
            space.noise_of(X, self.latents(model))
