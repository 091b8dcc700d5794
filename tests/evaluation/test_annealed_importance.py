"""Annealed importance sampling against exact log p(x): its error, how that falls, and what holds however it moves."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_vae import VAE, ProgramError, ais, log_likelihood, log_weights
from pyro_vae.display import with_error
from pyro_vae.evaluation import annealer as annealers
from pyro_vae.evaluation.annealer import Annealer, Annealing
from pyro_vae.inference.pair import ProgramPair
from tests.support.exact import equal
from tests.support.programs import HIERARCHIES, bits, same, traced, weights
from tests.support.shifted import Shifted

X = torch.eye(3).double()


def error_of(values, exact):
    """How far a mean is from the exact one, in standard errors."""
    return (values.mean() - exact).abs() / (values.std() / math.sqrt(len(values)))


def without_density(x):
    with pyro.plate("data", len(x)):
        for name, size in (("z2", 3), ("z1", 4)):
            pyro.sample(name, dist.Delta(torch.zeros(len(x), size).double()).to_event(1))


class TestLinearGaussian:
    @pytest.mark.parametrize("order", ["bottom-up", "top-down"])
    @pytest.mark.parametrize("num_temperatures", [1, 3])
    def test_under_the_exact_posterior_every_weight_is_log_p(self, order, num_temperatures):
        shifted = Shifted.by(0.0, order, num_data=6)
        estimate = ais(*shifted.pair, shifted.x, 4, num_temperatures, num_leapfrog_steps=1, seed=0)
        torch.testing.assert_close(estimate.values, shifted.log_p, rtol=0, atol=1e-9)
        torch.testing.assert_close(estimate.ess, torch.full((6,), 4.0).double())
        assert estimate.std_error.max() < 1e-7

    def test_a_thousandth_of_a_nat_with_eight_temperatures(self):
        """Three data, each within 5 of its standard errors: a false alarm in 600,000 runs."""
        shifted = Shifted.by(0.05)
        estimate = ais(*shifted.pair, shifted.x, 4000, 8, num_leapfrog_steps=2, seed=0)
        assert estimate.std_error.max() < 1e-3
        assert ((estimate.values - shifted.log_p).abs() < 5 * estimate.std_error).all()
        alone = log_likelihood(*shifted.pair, shifted.x, 4000, seed=0)
        assert (estimate.std_error < 0.4 * alone.std_error).all()

    def test_one_temperature_is_importance_sampling_of_the_same_draws(self):
        shifted = Shifted.by(0.3)
        annealer = Annealer(
            ProgramPair(*shifted.pair, vectorize_particles="auto"), shifted.x, Annealing(7, 1, "linear", 2)
        )
        torch.manual_seed(5)
        found = annealer.forwards(shifted.x, torch.ones(2, 3), lambda: None)
        torch.manual_seed(5)
        log_w = log_weights(*shifted.pair, shifted.x, 7).detach().double()
        equal(found.values, log_w.logsumexp(0) - math.log(7))
        equal(found.std_error, (log_w.exp().std(0) / log_w.exp().mean(0)) / math.sqrt(7))

    def test_variance_and_bias_fall_as_theory_says(self):
        """By 1/T, the bias being minus half the variance; 2500 runs of one chain at each T, slope known to 0.03."""
        shifted = Shifted.by(0.3)
        count, variances = 2500, {}
        for number in (1, 4, 8, 16):
            values = ais(
                *shifted.pair, shifted.copies(count), 1, number, num_leapfrog_steps=2, batch_size=count, seed=number
            ).values
            variances[number] = variance = values.var().item()
            mean = values.mean() - shifted.log_p[0]
            error = math.sqrt(variance / count + variance**2 / (2 * count))
            assert abs(mean + variance / 2) < 4.5 * error  # a false alarm in 150,000 runs
        assert variances[1] == pytest.approx(shifted.spread, rel=5 * math.sqrt(2 / count))
        slope = math.log(variances[16] / variances[4]) / math.log(4)
        assert abs(slope + 1) < 0.15
        assert all(variance * number < shifted.spread for number, variance in variances.items() if number > 1)

    @pytest.mark.parametrize("step_size", [1e-6, 0.3, 5.0])
    def test_the_mean_weight_is_p_whatever_the_moves_do(self, step_size, monkeypatch):
        """One leapfrog step, far too small and far too large; 4000 runs, a false alarm in 150,000."""
        shifted = Shifted.by(0.2)
        sizes = torch.full((6, 4000), step_size)
        monkeypatch.setattr(Annealer, "pilot", lambda *_: sizes)
        estimate = ais(*shifted.pair, shifted.copies(4000), 1, 5, num_leapfrog_steps=1, batch_size=4000, seed=0)
        ratio = (estimate.values - shifted.log_p[0]).exp()
        assert error_of(ratio, 1.0) < 4.5
        assert error_of(estimate.values, shifted.log_p[0]) > 10  # the logarithm is a lower bound
        assert (estimate.acceptance.mean() < 0.1) == (step_size == 5.0)

    def test_from_the_prior(self):
        """Which knows nothing of the data: 5 standard errors for each of three."""
        shifted = Shifted.by(5.0)
        options = {"start": "prior", "schedule": "geometric", "num_leapfrog_steps": 2, "seed": 0}
        estimate = ais(*shifted.pair, shifted.x, 400, 25, **options)
        assert ((estimate.values - shifted.log_p).abs() < 5 * estimate.std_error).all()
        assert estimate.std_error.max() < 0.2
        assert ((estimate.acceptance > 0.5) & (estimate.acceptance < 0.9)).all()  # the pilot aims at 0.7
        with pytest.raises(ProgramError, match="^site 'z2': found the point mass .* with a density"):
            ais(shifted.program.model, without_density, shifted.x, 2, 2)
        ais(
            shifted.program.model, without_density, shifted.x, 2, 1, start="prior", num_leapfrog_steps=1
        )  # does not ask for the guide

    def test_a_single_chain_has_no_error(self):
        shifted = Shifted.by(0.1)
        estimate = ais(*shifted.pair, shifted.x, num_chains=1, num_temperatures=2, num_leapfrog_steps=1, seed=0)
        assert estimate.std_error.isnan().all() and (estimate.ess == 1).all() and estimate.khat.isnan().all()
        assert (estimate.values - shifted.log_p).abs().max() < 1


class TestBatches:
    def test_a_last_batch_that_is_smaller_is_filled_up(self):
        """Its rows are repeated to the size of the others, and those of the repeats are left out."""
        shifted = Shifted.by(0.2, num_data=8)
        x = torch.cat([shifted.x[:7], shifted.x[4:5]])
        whole, part = (
            ais(*shifted.pair, data, 5, 3, num_leapfrog_steps=1, batch_size=4, seed=0) for data in (x, x[:7])
        )
        for found, expected in zip(part, whole, strict=True):
            torch.testing.assert_close(found, expected[:7], equal_nan=True)
        assert torch.equal(part.acceptance, whole.acceptance[:7]) and part.num_dims == 5.0

    def test_batches_of_a_loader_may_grow(self):
        shifted = Shifted.by(0.0, num_data=6)
        loader = DataLoader(shifted.x, batch_sampler=[[0, 1], [2, 3, 4, 5]])
        equal(ais(*shifted.pair, loader, 3, 2, num_leapfrog_steps=1, seed=0).values, shifted.log_p)

    def test_chains_come_in_chunks(self, monkeypatch):
        """All count for what they are, the smaller last chunk too, and each temperature of each is told."""
        shifted = Shifted.by(0.2)
        monkeypatch.setattr(annealers, "most_draws", lambda *_: 10)
        annealer = Annealer(
            ProgramPair(*shifted.pair, vectorize_particles="auto"), shifted.x, Annealing(7, 4, "linear", 2)
        )
        assert annealer.chunks == [3, 3, 1]
        ticks = []
        tick = lambda: ticks.append(1)  # noqa: E731
        found = annealer.forwards(shifted.x, annealer.pilot(shifted.x, tick), tick)
        assert len(ticks) == annealer.num_ticks()
        assert found.num_particles == 7 and (found.ess > 1).all() and (found.acceptance < 1).all()
        estimate = ais(*shifted.pair, shifted.copies(600), 4, 4, num_leapfrog_steps=1, batch_size=600, seed=0)
        assert error_of((estimate.values - shifted.log_p[0]).exp(), 1.0) < 4.5

    @pytest.mark.parametrize(
        "form",
        [
            lambda x: x.numpy(),
            lambda x: (x,),
            lambda x: {"x": x},
            lambda x: DataLoader(x, batch_size=2),
            lambda x: DataLoader([{"x": row} for row in x], batch_size=2),
        ],
    )
    def test_data_of_every_form(self, form):
        shifted = Shifted.by(0.0, num_data=3)
        estimate = ais(*shifted.pair, form(shifted.x), 3, 2, num_leapfrog_steps=1, seed=0)
        equal(estimate.values, shifted.log_p)
        assert estimate.num_dims == 5


class TestRuns:
    def test_seeds(self):
        shifted = Shifted.by(0.2)
        run = lambda seed: ais(*shifted.pair, shifted.x, 3, 3, num_leapfrog_steps=1, seed=seed).values  # noqa: E731
        assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
        first, second = run(None), run(None)
        assert not torch.equal(first, second)
        torch.manual_seed(0)  # as each test begins
        assert torch.equal(first, run(None))

    def test_it_leaves_everything_as_it_was(self):
        program = HIERARCHIES["ladder-batch-norm"]().train()
        pyro.param("mine", torch.ones(2))
        before, state = weights(program), torch.get_rng_state()
        with pyro.validation_enabled(True):
            ais(program.model, program.guide, bits(3), 2, 2, seed=0)
            assert pyro.infer.util.is_validation_enabled()
        assert same(weights(program), before) and torch.equal(torch.get_rng_state(), state)
        assert all(module.training for module in program.modules())
        assert all(p.grad is None and p.requires_grad for p in program.parameters())
        assert list(pyro.get_param_store().keys()) == ["mine"]

    def test_the_same_draws_give_the_same_numbers_compiled_or_not(self, monkeypatch):
        """By the graph; chunks and batches of other sizes run as they are, or are filled up."""
        monkeypatch.setattr("pyro_vae.compilation.compiled.inductor", traced)
        monkeypatch.setattr(annealers, "most_draws", lambda *_: 12)
        vae = VAE((4, 4), 2, (5,)).double()
        x = bits(6).double()
        eager, compiled = (
            ais(vae.model, vae.guide, x, 7, 3, num_leapfrog_steps=2, batch_size=4, compile=way, seed=0)
            for way in (False, True)
        )
        for found, expected in zip(compiled, eager, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)
        torch.testing.assert_close(compiled.acceptance, eager.acceptance, rtol=1e-10, atol=1e-10)

    @pytest.mark.cross
    def test_kernels_give_them_too(self):
        vae = VAE((3,), 2, (4,)).double()
        eager, compiled = (ais(vae.model, vae.guide, X, 4, 3, compile=way, seed=0) for way in (False, True))
        torch.testing.assert_close(compiled.values, eager.values, rtol=1e-10, atol=1e-10)

    def test_the_progress_is_shown(self, capsys):
        shifted = Shifted.by(0.2)
        ais(*shifted.pair, shifted.x, 2, 4, num_leapfrog_steps=1, seed=0, progress=True)
        assert "AIS" in capsys.readouterr().err
        ais(*shifted.pair, shifted.x, 2, 4, num_leapfrog_steps=1, seed=0)
        assert capsys.readouterr().err == ""

    def test_what_is_printed(self):
        """A mark and a sentence where the chains do not carry the figure."""
        good, bad = (Shifted.by(shift, num_data=6) for shift in (0.05, 1.5))
        estimate = ais(*good.pair, good.x, 10, 2, num_leapfrog_steps=1, seed=0)
        assert str(estimate) == f"{with_error(estimate.mean(), estimate.mean_error())} nats, the mean of 6 data"
        estimate = ais(*bad.pair, bad.x, 10, 2, num_leapfrog_steps=1, seed=0)
        first, second = str(estimate).splitlines()
        assert f"{with_error(estimate.mean(), estimate.mean_error())}† nats" in first
        assert second.startswith("† the effective sample size is below 2 of 10 chains for ")
        assert estimate.num_particles == 10 and estimate.bits_per_dim() == pytest.approx(
            -estimate.mean() / (5 * math.log(2))
        )
