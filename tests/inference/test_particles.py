"""Particles of programs that take a dimension of them, and of those that do not: the same weights in every way."""

from __future__ import annotations

import gc
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, ReweightedWakeSleep, fit, log_likelihood, log_weights
from pyro_vae.inference import particles
from tests.support.tutorial_runs import Tutorial

pytestmark = pytest.mark.usefixtures("double")
X = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64).reshape(5, 4)
WAYS = [True, "repeat", False]
NORM, CAT, SOFTMAX = "batch normalisation", "concatenation", "softmax over dim=1"


class Decoder(nn.Module):
    """A decoder that takes latents ``(B, L)`` alone, each in its own way."""

    def __init__(self, kind: str = "any") -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(4 if kind == CAT else 2, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.calls = 0

    def forward(self, z, ones):
        self.calls += 1
        if self.kind == CAT:
            return self.layer(torch.cat([z, ones], -1))
        out = self.layer(z)
        if self.kind == NORM:
            return self.norm(out)
        return out.softmax(1) if self.kind == SOFTMAX else out


class Programs(nn.Module):
    def __init__(self, kind: str = "any") -> None:
        super().__init__()
        self.decoder = Decoder(kind)
        self.encoder = nn.Linear(4, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z, x.new_ones(len(x), 2)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.8).to_event(1))


def programs(kind="any"):
    torch.manual_seed(2)
    return Programs(kind).eval()


def draws_and_weights(pair, way, num_particles=4):
    """The latents and the weights of a run in one way."""
    seen = []
    handle = pair.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    torch.manual_seed(5)
    log_w = log_weights(pair.model, pair.guide, X, num_particles, vectorize_particles=way)
    handle.remove()
    return torch.cat([z.reshape(-1, 5, 2) for z in seen]), log_w


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
            estimate = log_likelihood(pair.model, pair.guide, X, 3000, seed=0)
            IWAE(4).bound(pair.model, pair.guide, X)
        alone = log_likelihood(pair.model, pair.guide, X, 3000, seed=1, vectorize_particles=False)
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
