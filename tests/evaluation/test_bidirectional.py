"""The sandwich around log p(x): both mean weights, both bounds, what data it simulates, and what it refuses."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_vae import VAE, ConditionalVAE, ProgramError, ais, pack, sandwich
from pyro_vae.data.batch import Arguments
from pyro_vae.evaluation.annealer import Annealer
from pyro_vae.evaluation.bidirectional import Sandwich
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.inference.missing import observed_only
from tests.support.exact import numbers
from tests.support.labelled_gaussian import LabelledPPCA
from tests.support.programs import PAIRS, bits, same, traced, weights
from tests.support.shifted import Shifted

ALARM = 4.5  # standard errors: 7e-6


def score(values, exact=0.0):
    """How many standard errors a mean is above a number."""
    return ((values.mean() - exact) / (values.std() / math.sqrt(len(values)))).item()


def log_p_of(found, shifted):
    return shifted.chain.log_p(found.data).detach()


class TestBounds:
    @pytest.mark.parametrize("step_size", [None, 5.0])
    @pytest.mark.parametrize("start", ["guide", "prior"])
    def test_both_mean_weights_are_exact_whatever_the_moves_do(self, start, step_size, monkeypatch):
        """E[W] = p(x) and E[W'] = 1/p(x), by a chain each for 2000 data; with one leapfrog step, far too large too."""
        shifted = Shifted.by(0.15)
        if start == "prior":  # close enough to the posterior for the weights to have a variance
            with torch.no_grad():
                shifted.chain.layers[0].weights[0].mul_(0.15)
        if step_size is not None:
            monkeypatch.setattr(Annealer, "pilot", lambda self, x, _: torch.full((5, len(x)), step_size))
        found = sandwich(*shifted.pair, 2000, 1, 4, x=shifted.copies(2000), start=start, num_leapfrog_steps=1, seed=0)
        log_p = log_p_of(found, shifted)
        below, above = found.forwards.values - log_p, found.backwards.values - log_p
        if step_size is not None:
            assert found.forwards.acceptance.mean() < 0.2 and found.backwards.acceptance.mean() < 0.2
        assert abs(score(below.exp(), 1.0)) < ALARM and abs(score((-above).exp(), 1.0)) < ALARM
        assert score(below) < -ALARM and score(above) > ALARM  # so that the logarithms are bounds

    def test_the_exact_value_lies_between_and_the_gap_closes(self):
        """400 data of a linear Gaussian chain: three kinds of run, each with its own errors."""
        shifted, gaps = Shifted.by(0.4), []
        for number, num_chains in ((2, 1), (8, 1), (8, 8)):
            options = {"x": shifted.copies(400), "num_leapfrog_steps": 2, "seed": 1}
            found = sandwich(*shifted.pair, 400, num_chains, number, **options)
            log_p = log_p_of(found, shifted)
            below, above = score(found.forwards.values - log_p), score(found.backwards.values - log_p)
            assert below < ALARM and above > -ALARM
            if num_chains == 1:  # where the gap is far above its error
                assert below < -3 and above > 3 and found.gap > 3 * found.gap_error
            gaps.append(found.gap)
        assert gaps[0] > 2.5 * gaps[1] > 2.5 * gaps[2]

    def test_under_the_exact_posterior_there_is_no_gap(self):
        shifted = Shifted.by(0.0, "bottom-up")
        found = sandwich(*shifted.pair, num_data=7, num_chains=3, num_temperatures=3, x=shifted.copies(7), seed=0)
        torch.testing.assert_close(found.forwards.values, log_p_of(found, shifted), rtol=0, atol=1e-9)
        assert found.gaps.abs().max() < 1e-9 and found.gap_std_errors.max() < 1e-7

    def test_it_tells_how_far_ais_is_off(self):
        """The lower bound is what AIS gives for the same data: they differ by their errors."""
        shifted = Shifted.by(0.3)
        found = sandwich(*shifted.pair, 200, 4, 4, x=shifted.copies(200), num_leapfrog_steps=1, seed=0)
        again = ais(*shifted.pair, found.data, 4, 4, num_leapfrog_steps=1, seed=1)
        assert abs(score(again.values - found.forwards.values)) < ALARM
        assert abs(again.acceptance.mean() - found.forwards.acceptance.mean()) < 0.05

    def test_backwards_chains_start_anew_from_one_draw(self, monkeypatch):
        """K chains of a datum in chunks: their mean weight is 1/p(x) still, and more of them are a tighter bound."""
        monkeypatch.setattr("pyro_vae.evaluation.annealer.most_draws", lambda *_: 500)
        shifted = Shifted.by(0.3)
        found = sandwich(*shifted.pair, 600, 5, 3, x=shifted.copies(600), num_leapfrog_steps=2, seed=0)
        above = found.backwards.values - log_p_of(found, shifted)
        assert found.backwards.num_particles == 5 and (found.backwards.ess > 1).all()
        assert abs(score((-above).exp(), 1.0)) < ALARM


def expected_log_p(labelled):
    """Minus the entropy of x given y, which is the same for all classes."""
    covariance = labelled.ppca.weights @ labelled.ppca.weights.T + labelled.ppca.variance * torch.eye(6).double()
    return -0.5 * (covariance.logdet().item() + 6 * (1 + math.log(2 * math.pi)))


class TestData:
    def test_of_a_model_of_this_package_the_form_is_known(self):
        vae = VAE((4, 4), 2, (5,))
        before, state = weights(vae), torch.get_rng_state()
        found = sandwich(vae.model, vae.guide, 5, 3, 3, seed=0)
        assert found.data.shape == (5, 4, 4) and ((found.data == 0) | (found.data == 1)).all()
        assert found.gaps.shape == found.gap_std_errors.shape == (5,) and found.forwards.num_dims == 16
        assert same(weights(vae), before) and torch.equal(torch.get_rng_state(), state)
        again = sandwich(vae.model, vae.guide, 5, 3, 3, seed=0)
        assert torch.equal(found.data, again.data) and torch.equal(found.gaps, again.gaps)

    def test_data_of_every_form_are_cut_to_the_number(self):
        shifted = Shifted.by(0.0, num_data=6)
        loader = DataLoader(shifted.x, batch_sampler=[[0], [1, 2, 3], [4, 5]])
        for x, number, expected in (
            (shifted.x.numpy(), 4, 4),
            ((shifted.x,), 9, 6),
            ({"x": shifted.x}, 2, 2),
            (loader, 5, 5),
            (loader, 6, 6),
        ):
            found = sandwich(*shifted.pair, number, 2, 2, x=x, num_leapfrog_steps=1, seed=0)
            data = found.data.values[0] if isinstance(found.data, Arguments) else found.data
            assert len(data) == len(found.gaps) == expected
            torch.testing.assert_close(found.forwards.values, shifted.chain.log_p(data).detach(), rtol=0, atol=1e-9)
            assert not torch.isin(data, shifted.x).any() and len(data.unique(dim=0)) == expected

    def test_data_and_labels(self):
        """A conditional VAE is given the labels: they stay, and the bounds are of log p(x|y)."""
        labelled = LabelledPPCA(200)
        program = labelled.program(ConditionalVAE, off=0.2)
        options = {"x": (labelled.x, labelled.y), "num_leapfrog_steps": 2, "seed": 0}
        found = sandwich(program.model, program.guide, 200, 4, 4, **options)
        labelled.x, y = found.data.values
        assert torch.equal(y, labelled.y)
        exact = labelled.log_p_given_labels()[y, torch.arange(200)].detach()
        below, above = (exact - each.values.detach() for each in (found.forwards, found.backwards))
        assert score(below) > 0 > score(above)
        assert below.mean() < 0.2 and above.mean() > -0.2
        assert abs(score(exact, expected_log_p(labelled))) < ALARM  # the data are draws of the classes

    def test_compiled_or_not(self, monkeypatch):
        monkeypatch.setattr("pyro_vae.compilation.compiled.inductor", traced)
        vae = VAE((3,), 2, (4,)).double()
        eager, compiled = (sandwich(vae.model, vae.guide, 4, 3, 2, compile=way, seed=0) for way in (False, True))
        assert torch.equal(eager.data, compiled.data)
        torch.testing.assert_close(compiled.gaps, eager.gaps, rtol=1e-10, atol=1e-10)


class TestSandwich:
    def test_properties_by_hand(self):
        nothing = numbers(0.0, 0.0, 0.0)
        below = LogLikelihood(numbers(-3.0, -2.0, -4.0), numbers(0.3, 0.4, 0.0), nothing, nothing)
        above = LogLikelihood(numbers(-2.0, -2.0, -1.0), numbers(0.4, 0.3, 0.5), nothing, nothing)
        found = Sandwich(below, above, torch.zeros(3))
        assert found.lower == pytest.approx(-3.0) and found.upper == pytest.approx(-5 / 3)
        assert found.gap == pytest.approx(4 / 3)
        torch.testing.assert_close(found.gaps, numbers(1.0, 0.0, 3.0))
        torch.testing.assert_close(found.gap_std_errors, numbers(0.5, 0.5, 0.5))
        assert found.gap_error == pytest.approx(math.sqrt((1 / 9 + 16 / 9 + 25 / 9) / 2 / 3))
        assert str(found) == (
            "log p(x) between -3.00 and -1.67 nats, a gap of 1.33 ± 0.88, the mean of 3 simulated data"
        )
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.data = torch.ones(3)

    def test_a_single_datum_has_no_error(self):
        vae = VAE((4, 4), 2, (5,))
        found = sandwich(vae.model, vae.guide, 1, 2, 2, seed=0)
        assert math.isnan(found.gap_error) and "± nan, the mean of 1 simulated" in str(found)


def scaled(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=0.5 * x)


def weighed(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.factor("x", -0.5 * (x - z).square())


def latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def narrow(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Uniform(-0.1 * torch.ones(len(x)), 0.1))


def plain(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "guide", "message"),
        [
            (scaled, latent, "^site 'x': found other values than the simulated ones where the model is run on them"),
            (weighed, latent, "^site 'x': found a factor, expected a distribution that data can be drawn from"),
            (plain, narrow, "^guide: found latents of the model outside of its support, expected a guide that covers"),
        ],
    )
    def test_what_cannot_be_simulated(self, model, guide, message):
        with pytest.raises(ProgramError, match=message):
            sandwich(model, guide, 5, 2, 2, x=torch.linspace(-1, 1, 5))

    def test_packed_data(self):
        vae = VAE((4, 4), 2, (5,))
        packed = pack(bits(3), torch.rand(3, 4, 4) < 0.5)
        with pytest.raises(
            ProgramError, match=r"^site 'x': found simulated values of shape \(3, 4, 4\), expected data"
        ):
            sandwich(*observed_only(vae.model, vae.guide), 3, x=packed)

    @pytest.mark.parametrize(
        "pair", [PAIRS["tutorial"], lambda: (lambda p: (p.model, p.guide))(ConditionalVAE((4, 4), 3, 2, (5,)))]
    )
    def test_a_model_that_does_not_tell_the_form_of_its_data(self, pair):
        with pytest.raises(ValueError, match=r"^x: found None for the model (TutorialModel|\w+), expected data \(N, "):
            sandwich(*pair())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_data": 0}, "^num_data: found 0, expected a positive integer"),
            ({"num_chains": -1}, "^num_chains: found -1, expected a positive integer"),
            ({"start": "data"}, "^start: found 'data', expected one of 'guide', 'prior'"),
            ({"x": torch.zeros(0, 4, 4)}, "^x: found shape .* expected data"),
        ],
    )
    def test_wrong_arguments(self, options, message):
        vae = VAE((4, 4), 2, (5,))
        with pytest.raises(ValueError, match=message):
            sandwich(vae.model, vae.guide, **options)
