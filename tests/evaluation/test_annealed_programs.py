"""Annealed importance sampling of any pair of programs: every support and layout, against exact log p(x); refusals."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vae
from pyro_vae import ProgramError, ais, log_likelihood, sandwich
from pyro_vae.inference.handlers import FromPrior
from tests.support import fixed_noise, parts
from tests.support.conjugate import CONJUGATE
from tests.support.linear_chains import log_normal
from tests.support.movable import MOVABLE
from tests.support.programs import PAIRS, bits
from tests.support.quadrature import quadrature
from tests.support.vq_vaes import make

BOUNDED = "Uniform between bounds of x"  # the model has no density at most draws of its prior, and says so
ALARM = 5.0  # standard errors of each datum: 6e-7


def check(estimate, exact, most):
    """Each datum is within its errors, which are small."""
    assert estimate.std_error.max() < most
    away = (estimate.values - exact).abs()
    assert (away < ALARM * estimate.std_error + 1e-9).all(), away / estimate.std_error


class TestSupports:
    @pytest.mark.parametrize(
        ("name", "start"),
        [(name, start) for name in CONJUGATE for start in ("guide", "prior") if (name, start) != (BOUNDED, "prior")],
    )
    def test_a_latent_of_any_support(self, name, start):
        model, guide, x, log_p = CONJUGATE[name]()
        check(ais(model, guide, x, 2500, 4, start=start, num_leapfrog_steps=1, seed=0), log_p, 0.05)

    @pytest.mark.parametrize(
        "name",
        [
            "full",
            "mixture",
            "autoregressive",
            *(pytest.param(e, marks=pytest.mark.cross) for e in ("low rank", "planar")),
        ],
    )
    def test_every_kind_of_posterior(self, name, double):
        torch.manual_seed(1)
        vae, x = parts.composed(name, "standard").double(), parts.data("bernoulli").double()
        check(ais(vae.model, vae.guide, x, 1600, 8, num_leapfrog_steps=1, seed=0), quadrature(vae, x, 81)[0], 0.2)

    @pytest.mark.parametrize("name", ["mixture", "vamp", "flow"])
    def test_every_kind_of_prior(self, name, double):
        torch.manual_seed(1)
        vae, x = parts.composed("diagonal", name).double(), parts.data("bernoulli").double()
        estimate = ais(vae.model, vae.guide, x, 600, 4, start="prior", num_leapfrog_steps=1, seed=0)
        check(estimate, quadrature(vae, x, 81, 12.0)[0], 0.2)


class TestLayouts:
    @pytest.mark.parametrize("name", ["event", "left plate", "right plate", "masked", "scaled subsample"])
    def test_plates_masks_and_scales(self, name):
        """x ~ N(W b, W Wᵀ + 0.7²) however it is written down; the masked datum has log p = 0, and no error."""
        model, guide, x = MOVABLE[name]()
        weight, bias = model.weight.detach(), model.bias.detach()
        log_p = log_normal(x, weight @ bias, weight @ weight.T + 0.49 * torch.eye(fixed_noise.D).double())
        if name == "masked":
            log_p[-1] = 0.0
        check(ais(model, guide, x, 6000, 4, num_leapfrog_steps=2, batch_size=6, seed=0), log_p, 0.05)

    def test_numbers(self):
        model, guide, x = MOVABLE["numbers"]()
        spread = 1.1**2 * (0.8**2 + 0.49) + 0.25
        check(
            ais(model, guide, x, 1000, 4, batch_size=4, seed=0), dist.Normal(0.0, math.sqrt(spread)).log_prob(x), 0.05
        )

    @pytest.mark.parametrize(
        ("name", "start"),
        [
            ("hvae", "prior"),
            ("hvae-top-down", "guide"),
            ("ladder-batch-norm", "prior"),
            pytest.param("conv-ladder", "guide", marks=pytest.mark.cross),
            ("supports", "guide"),
        ],
    )
    def test_several_latents(self, name, start, double):
        """Against importance sampling from the prior, which is close to the posterior of a model that is untrained."""
        torch.manual_seed(0)
        model, guide, x = MOVABLE[name]()
        exact = log_likelihood(model, FromPrior(model), x, 8000, seed=1)
        found = ais(model, guide, x, 300, 6, start=start, num_leapfrog_steps=1, seed=0)
        error = (found.std_error.square() + exact.std_error.square()).sqrt()
        assert ((found.values - exact.values).abs() < ALARM * error).all()
        assert error.max() < 0.5

    @pytest.mark.parametrize(
        ("name", "num_chains"), [("concatenation", 500), ("softmax", 500), ("one after the other", 40)]
    )
    def test_programs_that_take_no_plate_of_particles(self, name, num_chains, double):
        model, guide, x = MOVABLE[name]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they do not
            exact = log_likelihood(model, FromPrior(model), x, 8000 if num_chains > 40 else 400, seed=1)
            found = ais(model, guide, x, num_chains, 3, num_leapfrog_steps=1, seed=0)
        error = (found.std_error.square() + exact.std_error.square()).sqrt()
        assert ((found.values - exact.values).abs() < ALARM * error).all()

    def test_an_auto_guide(self):
        """By one-dimensional quadrature: its parameters belong to single data."""
        model, guide, x = MOVABLE["AutoNormal"]()
        rate = torch.linspace(1e-6, 30, 200_001, dtype=torch.float64)
        density = dist.Gamma(2.0, 1.0).log_prob(rate) + dist.Normal(rate, 0.5).log_prob(x[:, None])
        exact = torch.trapezoid(density.exp(), rate).log()
        check(ais(model, guide, x, 1500, 6, num_leapfrog_steps=1, batch_size=3, seed=0), exact, 0.05)

    @pytest.mark.parametrize("dim", [0, 1])
    def test_a_masked_latent_changes_nothing(self, dim):
        """Of two, one has no density in either program, and no say in the data."""

        def program(x, seen):
            with pyro.plate("data", len(x)):
                with poutine.mask(mask=torch.arange(len(x)) >= len(x) * dim):
                    pyro.sample("idle", dist.Gamma(torch.ones(len(x)).double() * (1 + seen), 1.0))
                z = pyro.sample("z", dist.Normal(0.5 * x * seen, (1 - 0.4 * seen) * torch.ones(len(x)).double()))
                if not seen:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        x = torch.linspace(-2, 2, 3).double()
        estimate = ais(lambda x: program(x, 0), lambda x: program(x, 1), x, 1000, 4, num_leapfrog_steps=2, seed=0)
        check(estimate, dist.Normal(0.0, math.sqrt(2)).log_prob(x), 0.05)


def bernoulli(x):
    with pyro.plate("data", len(x)):
        pyro.sample("switch", dist.Bernoulli(torch.full((len(x),), 0.3)))


def switched(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("switch", dist.Bernoulli(torch.full((len(x),), 0.3)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def with_global(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        if x.dim() == 1:
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def observed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def m2():
    program = pyro_vae.M2((4, 4), 3, 2, (5,))
    return program.model, program.guide, bits(3)


def vq_vae():
    program = make()
    return program.model, program.guide, bits(3)


def guide_of_global(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))


X = torch.linspace(-1.0, 1.0, 3)
REFUSED = {
    "Bernoulli": (lambda: (switched, bernoulli, X), "^site 'switch': found Bernoulli.* takes no path of small steps"),
    "M2": (m2, "^site 'y': found .* takes no path of small steps"),
    "VQ-VAE": (vq_vae, "^site 'z': found .* takes no path of small steps"),
    "global": (lambda: (with_global, guide_of_global, X), "^site 'w': found outside the data plate, where a latent is"),
    "no latent": (lambda: (observed, lambda x: None, X), "^guide: found no latent, expected one or more that can be"),
    "no pair": (lambda: (switched, lambda x: None, X), "^site 'switch': found in the model, but the guide has the"),
}


class TestRefusals:
    @pytest.mark.parametrize("run", [ais, lambda model, guide, x: sandwich(model, guide, 3, x=x)])
    @pytest.mark.parametrize("name", REFUSED)
    def test_programs_whose_latents_cannot_be_moved(self, name, run):
        make_pair, message = REFUSED[name]
        with pytest.raises(ProgramError, match=message):
            run(*make_pair())

    def test_a_guide_of_point_masses(self):
        model = PAIRS["tutorial"]()[0].eval()
        guide = pyro.infer.autoguide.AutoDelta(model)
        guide(bits(3))
        with pytest.raises(ProgramError, match="^site 'z': found the point mass Delta"):
            ais(model, guide, bits(3))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_chains": 0}, "^num_chains: found 0, expected a positive integer"),
            ({"num_temperatures": 0}, "^num_temperatures: found 0, expected a positive integer"),
            ({"num_leapfrog_steps": 1.5}, "^num_leapfrog_steps: found 1.5, expected a positive integer"),
            ({"batch_size": 0}, "^batch_size: found 0, expected a positive integer"),
            ({"start": "data"}, "^start: found 'data', expected one of 'guide', 'prior'"),
            ({"schedule": "slow"}, "^schedule: found 'slow', expected one of 'linear', 'geometric', 'sig"),
            ({"compile": "yes"}, "^compile: found 'yes', expected 'auto', True or False"),
            ({"seed": -1}, "^seed: found -1, expected"),
        ],
    )
    def test_wrong_arguments(self, options, message):
        vae = pyro_vae.VAE((4, 4), 2, (5,))
        with pytest.raises(ValueError, match=message):
            ais(vae.model, vae.guide, bits(3), **options)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.full((3, 4, 4), math.nan), "^x: found the value nan|^x: found nan"),
            (torch.zeros(0, 4, 4), "^x: found shape .* expected data .* with N of 1 or more"),
            (torch.full((3, 4, 4), 0.5), "^x: found the value 0.5 at .* outside the support of site 'x'"),
            (torch.zeros(3, 4), r"^x: found data of shape \(N, 4\), expected \(N, 4, 4\)"),
        ],
    )
    def test_data_without_a_density(self, x, message):
        vae = pyro_vae.VAE((4, 4), 2, (5,))
        with pytest.raises(ValueError, match=message):
            ais(vae.model, vae.guide, x)
