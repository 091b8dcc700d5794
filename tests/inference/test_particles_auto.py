"""How particles are drawn where programs do not say it: what fails or is wrong in a plate is found out."""

from __future__ import annotations

import gc
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, fit, log_likelihood, log_weights
from pyro_vae.inference import particles
from tests.support.one_particle import CAT, NORM, SOFTMAX, X, draws_and_weights, programs
from tests.support.tutorial_runs import Tutorial

pytestmark = pytest.mark.usefixtures("double")


class TestAuto:
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (CAT, "must have same number of dimensions|got 3 and 2"),
            (NORM, "running_mean|expected|dimension"),
            (SOFTMAX, "other log weights, by"),
        ],
    )
    def test_programs_that_fail_or_are_wrong_in_a_plate(self, kind, reason):
        """They are found out once, said once, and give the weights of single runs."""
        pair = programs(kind)
        torch.manual_seed(5)
        with pytest.warns(
            UserWarning, match=f"^vectorize_particles: found programs that .*({reason}).*by repeating the data"
        ):
            found = log_weights(pair.model, pair.guide, X, 4)
        torch.testing.assert_close(found, draws_and_weights(pair, "repeat")[1], rtol=0, atol=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimate = log_likelihood(pair.model, pair.guide, X, 48_000, seed=0)
            IWAE(4).bound(pair.model, pair.guide, X)
        alone = log_likelihood(pair.model, pair.guide, X, 1600, seed=1, vectorize_particles=False)  # which is slow
        error = (estimate.std_error.square() + alone.std_error.square()).sqrt()
        assert ((estimate.values - alone.values).abs() < 5 * error).all()  # a chance of 6e-7 for each of five data

    def test_a_softmax_over_the_particles_is_refused_where_the_plate_was_asked_for(self):
        pair = programs(SOFTMAX)
        for run in (
            lambda: log_likelihood(pair.model, pair.guide, X, 5, vectorize_particles=True),
            lambda: fit(pair.model, pair.guide, X, objective=IWAE(3, vectorize_particles=True), batch_size=5),
        ):
            with pytest.raises(
                ProgramError, match="^vectorize_particles: found True and programs that take no dimension"
            ):
                run()

    @pytest.mark.parametrize("kind", ["mean", "len", "arange", "sum", "cumsum", "global"])
    def test_what_belongs_to_the_whole_batch_is_not_repeated(self, kind):
        """Repeated data are another batch, whose mean, length or sum is not that of the data."""

        def of_batch(h, x):
            many = torch.arange(len(x), dtype=x.dtype)[:, None]
            others = {"mean": h - h.mean(0), "len": h * len(x), "arange": h + many, "sum": h + x.sum()}
            return {**others, "cumsum": h.cumsum(0), "global": h}[kind]

        def model(x):
            if kind == "global":
                pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
                loc = of_batch(torch.cat([z, x[:, :2]], -1), x)  # which takes no dimension of particles
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def guide(x):
            if kind == "global":
                pyro.sample("w", dist.Normal(x.sum() - 3.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

        x = X + 0.3
        with pytest.warns(UserWarning, match="drawn one after the other"):
            ELBO(3).bound(model, guide, x)
        with pytest.raises(ProgramError, match="^vectorize_particles: found 'repeat' and programs that"):
            fit(model, guide, x, objective=IWAE(3, vectorize_particles="repeat"), batch_size=5)

    def test_a_fixed_plate_leaves_one_after_the_other(self):
        def model(x):
            with pyro.plate("data", 5):
                z = pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.softmax(1).sum(1)[:, None].expand(5, 4), 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", 5):
                pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0).to_event(1))

        with pytest.warns(UserWarning, match="drawn one after the other, which is slower"):
            log_w = log_weights(model, guide, X, 3)
        torch.testing.assert_close(log_w[0], log_w[1])  # the softmax sums to one

    def test_noise_of_the_programs_own_leaves_nothing_to_compare(self):
        """It is said once, and not where the way is given."""
        pair = programs(SOFTMAX)

        def model(x):
            pair.model(x + 1e-6 * torch.randn_like(x))

        expected = "^vectorize_particles: found programs with noise of their own, .* expected True, or False$"
        with pytest.warns(UserWarning, match=expected):
            assert log_weights(model, pair.guide, X, 4).shape == (4, 5)
        log_weights(model, pair.guide, X, 4)
        for way in (True, False):
            log_likelihood(model, pair.guide, X, 4, vectorize_particles=way)

    def test_further_plates_that_were_not_counted(self):
        """They take the dimension of the particles at first, and are no reason to leave the plate."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                with pyro.plate("observations", x.shape[1], dim=-2):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.mean(1), 1.0))

        pair = particles.ProgramPair(model, guide, 1, "auto")
        assert particles.way_of(pair, X, False) is True  # and no warning
        assert log_weights(model, guide, X, 3).shape == (3, 5)

    def test_packaged_programs_and_single_particles_are_not_tried_out(self):
        pair = programs(CAT)
        IWAE(1).bound(pair.model, pair.guide, X)
        assert pair.decoder.calls == 1
        vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(3,)).double()
        calls = []
        vae.likelihood.network.register_forward_hook(lambda *_: calls.append(1))
        log_weights(vae.model, vae.guide, (X > 0).double(), 6)
        assert len(calls) == 1

    def test_trying_out_moves_nothing(self):
        """Neither the generator nor batch statistics nor modes."""
        pair = programs(NORM).train()
        state, mean = torch.get_rng_state(), pair.decoder.norm.running_mean.clone()
        way, reason, _ = particles._find(particles.ProgramPair(pair.model, pair.guide), X, False)
        assert way == "repeat" and reason
        assert torch.equal(torch.get_rng_state(), state) and torch.equal(pair.decoder.norm.running_mean, mean)
        assert pair.decoder.norm.training

    def test_trying_out_leaves_nothing_in_the_caches_of_transforms(self):
        """A density of the data themselves is the same in every bound, also right after programs were tried out."""
        flow = dist.transforms.affine_autoregressive(4, hidden_dims=[8]).double()

        def model(x):
            pyro.module("flow", flow)
            with pyro.plate("data", len(x)):
                base = dist.Normal(x.new_zeros(4), 1.0).to_event(1)
                pyro.sample("x", dist.TransformedDistribution(base, [flow]), obs=x)

        def guide(x):
            pass

        expected = ELBO().bound(model, guide, X.clone())
        for objective in (IWAE(3), ELBO(3)):
            torch.testing.assert_close(objective.bound(model, guide, X), expected, rtol=0, atol=1e-12)

    def test_what_was_found_out_goes_with_the_programs(self):
        pair = programs()
        log_weights(pair.model, pair.guide, X, 2)
        assert pair in particles._known
        count = len(particles._known)
        del pair
        gc.collect()
        assert len(particles._known) < count

    @pytest.mark.parametrize("compile", [False, True])
    def test_fit_and_likelihood_of_the_cvae_as_the_tutorial_has_it(self, compile):
        """Its indexing takes one particle."""
        cvae = Tutorial("CVAE")
        cvae.module.hidden = lambda probs, xs: probs[xs == -1].view(len(xs), -1)
        xs, ys = cvae.args[0], cvae.x
        options = {"batch_size": len(xs), "num_epochs": 2, "seed": 0, "progress": False}
        with pytest.warns(UserWarning):
            history = fit(cvae.module.model, cvae.module.guide, (xs, ys), objective=IWAE(3), **options)
        assert history.records[1]["train_bound"] != history.records[0]["train_bound"]
