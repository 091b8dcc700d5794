"""Which plate is that of the data, and what a program's other plates, factors and scales do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError
from tests.support.global_latents import X, close, seeded


class TestPlates:
    @pytest.mark.parametrize("size", [len(X), 4])
    def test_a_plate_that_is_not_the_datas(self, size):
        """Also where it happens to have as many members, as the plate of the data is called so."""

        def model(x):
            with pyro.plate("weights", size):
                w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(w.sum(-1, keepdim=True), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("weights", size):
                pyro.sample("w", dist.Normal(x.new_full((size,), 0.1), 0.5))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 1.0))

        loss = seeded(ELBO().differentiable_loss, model, guide, X)
        close(loss, seeded(Trace_ELBO().differentiable_loss, model, guide, X))
        for objective in (ELBO(4), IWAE(4)):
            traced, _ = objective._trace(model, guide, X)
            assert traced.global_sites == ["w"] and traced.num_data == len(X)
            assert objective.estimate(model, guide, X).bound.shape == X.shape
        with pytest.raises(
            ProgramError, match=rf"^site 'w': .*pyro.plate\('weights', {size}\), which is not that of the"
        ):
            pyro_vae.log_weights(model, guide, X)

    def test_two_plates_of_one_size_that_are_not_told_apart(self):
        def model(x):
            with pyro.plate("weights", len(x)):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(w.sum(), 1.0), obs=x)

        def guide(x):
            with pyro.plate("weights", len(x)):
                pyro.sample("w", dist.Normal(0.0, 1.0))

        with pytest.raises(
            ProgramError, match=r"^site 'w': found in the plate 'weights', as large as the plate 'rows'"
        ):
            ELBO().bound(model, guide, X)

    @pytest.mark.parametrize(("num_data", "batch_size"), [(5, 5), (10, 5), (9, 4), (13, 8)])
    def test_two_plates_of_all_sites_of_which_either_may_be_the_datas(self, double, num_data, batch_size):
        """In batches of as many data as pixels, also where only the last one has as many; a name tells."""

        def pair(name):
            def half(x, observe):
                with pyro.plate(name, len(x), dim=-2), pyro.plate("pixels", 5, dim=-1):
                    loc, scale = (x.new_zeros(()), 1.0) if observe else (x / 2, 0.5**0.5)
                    z = pyro.sample("z", dist.Normal(loc, scale))
                    if observe:
                        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

            return lambda x: half(x, True), lambda x: half(x, False)

        x = torch.linspace(-2.0, 2.0, 5 * num_data).double().reshape(num_data, 5)
        options = {"num_particles": 2, "batch_size": batch_size, "max_plate_nesting": 2}
        truth = dist.Normal(x.new_zeros(()), 2**0.5).log_prob(x).sum(1)
        close(pyro_vae.log_likelihood(*pair("data"), x, **options).values, truth)
        if 5 in (batch_size, num_data % batch_size):
            with pytest.raises(ProgramError, match="^found two plates for 5 data, '(images|pixels)' and '"):
                pyro_vae.log_likelihood(*pair("images"), x, **options)
        else:
            close(pyro_vae.log_likelihood(*pair("images"), x, **options).values, truth)

    def test_the_last_batch_is_looked_at_before_any_work(self):
        calls = []

        def half(x, observe):
            calls.append(len(x))
            with pyro.plate("images", len(x), dim=-2), pyro.plate("pixels", 5, dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                if observe:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        with pytest.raises(ProgramError, match="^found two plates for 5 data, 'images' and 'pixels', which hold all"):
            pyro_vae.log_likelihood(lambda x: half(x, True), lambda x: half(x, False), torch.zeros(13, 5), batch_size=8)
        assert set(calls) == {8}

    def test_a_sequential_plate_and_no_plate_are_one_datum(self):
        def sequential(x):
            for i in pyro.plate("data", len(x)):
                z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
                pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

        def guide(x):
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"z_{i}", dist.Normal(x[i] / 2, 0.7))

        def at_once(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide_at_once(x):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

        for programs in ((sequential, guide), (at_once, guide_at_once)):
            close(
                seeded(ELBO().differentiable_loss, *programs, X),
                seeded(Trace_ELBO().differentiable_loss, *programs, X),
            )
            assert IWAE(3).bound(*programs, X).shape == (1,)
        with pytest.raises(ProgramError, match="^found sequential 'data', expected one for the data, pyro.plate"):
            pyro_vae.log_weights(sequential, guide, X)
        with pytest.raises(ProgramError, match="^found no plate, expected one for the data"):
            pyro_vae.log_likelihood(at_once, guide_at_once, X, 2)

    def test_a_subsample_of_the_batch(self):
        """One subsample for all particles, scaled as in Pyro; each bound stands for two data."""

        def model(x):
            with pyro.plate("data", len(x), subsample_size=3) as rows:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

        def guide(x):
            with pyro.plate("data", len(x), subsample_size=3) as rows:
                pyro.sample("z", dist.Normal(x[rows] / 2, 0.7))

        close(
            seeded(ELBO().differentiable_loss, model, guide, X),
            seeded(Trace_ELBO().differentiable_loss, model, guide, X),
        )
        for way in (True, False):
            estimate = seeded(IWAE(5, vectorize_particles=way).estimate, model, guide, X)
            close(estimate.loss, -2 * estimate.bound.sum())
            close(estimate.sums()[0], 2 * estimate.bound.sum())
            traced, _ = IWAE(5, vectorize_particles=way)._trace(model, guide, X)
            assert len({tuple(part.guide_trace.nodes["data"]["value"].tolist()) for part in traced.parts}) == 1

    def test_a_factor_of_the_guide_counts_in_the_loss_alone(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

        def guide(x, factor=True):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.7))
                if factor:
                    pyro.factor("own loss", x.square(), has_rsample=False)

        bare = lambda x: guide(x, factor=False)  # noqa: E731
        close(
            seeded(ELBO().differentiable_loss, model, guide, X),
            seeded(Trace_ELBO().differentiable_loss, model, guide, X),
        )
        for run in (ELBO(3).estimate, IWAE(3).estimate):
            close(seeded(run, model, guide, X).true_bound, seeded(run, model, bare, X).bound)
        close(seeded(pyro_vae.log_weights, model, guide, X, 3), seeded(pyro_vae.log_weights, model, bare, X, 3))

    @pytest.mark.parametrize("num_items", [3, 4])
    def test_groups_of_items_whatever_their_number(self, num_items):
        """All sites are in the plate of the groups, as many as there are rows; the items in one of their own."""

        def model(x):
            groups = pyro.plate("groups", len(x), dim=-2)
            with groups:
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                with pyro.plate("items", x.shape[1], dim=-1):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("groups", len(x), dim=-2):
                pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 0.5))

        x = torch.arange(3.0 * num_items).reshape(3, num_items).double() / 5
        log_w = seeded(pyro_vae.log_weights, model, guide, x, 4, max_plate_nesting=2)
        assert log_w.shape == (4, 3)
        z = seeded(lambda: dist.Normal(x.mean(1, keepdim=True), 0.5).expand([4, 3, 1]).sample())
        expected = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(x.mean(1, keepdim=True), 0.5).log_prob(z)
        close(log_w, expected[..., 0] + dist.Normal(z, 1.0).log_prob(x).sum(-1))
