"""What a user draws from a hierarchy, layer by layer, and that nothing is left behind."""

from __future__ import annotations

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae import HVAE
from pyro_vae.posteriors import precision_weighted
from tests.support.hierarchies import X, latents_of
from tests.support.programs import HIERARCHIES, IMAGE, same, vae, weights


class TestSample:
    def test_the_layers_above_are_held_and_the_others_vary(self, program):
        top = len(program.latents)
        for t in range(1, top + 1):
            samples, values = latents_of(program.sample, 6, layer=t)
            assert samples.shape == (6, *IMAGE)
            _, again = latents_of(program.sample, 6, layer=t)
            for s in range(1, top + 1):
                rows = values[f"z{s}"].flatten(1).unique(dim=0)
                assert len(rows) == (1 if s > t else 6), (t, s)
                assert not torch.equal(values[f"z{s}"], again[f"z{s}"])  # drawn, and not the mean

    def test_what_is_held_is_drawn_from_the_prior(self):
        program = HVAE(IMAGE, (3, 2), (5,))
        held = torch.stack([latents_of(program.sample, 1, layer=1)[1]["z2"][0] for _ in range(150)])
        # 300 draws of N(0, 1): the mean has a standard error of 0.058 and the variance one of 0.082; six of each.
        assert abs(held.mean().item()) < 0.35 and abs(held.var().item() - 1) < 0.5

    def test_the_means_are_those_of_the_draws(self, program):
        torch.manual_seed(5)
        draws = program.sample(2000, layer=1)
        torch.manual_seed(5)
        means = program.sample(2000, layer=1, mean=True)
        assert {*draws.unique().tolist()} == {0.0, 1.0} and ((means > 0) & (means < 1)).all()
        # The difference is 2000 Bernoulli errors a pixel, each of a variance of 1/4 at most: six standard errors.
        assert (draws.mean(0) - means.mean(0)).abs().max() < 6 * 0.5 / 2000**0.5

    def test_the_top_varies_everything_and_none_may_be_asked_for(self, program):
        top = len(program.latents)
        torch.manual_seed(6)
        whole = program.sample(2000, mean=True).mean(0)
        layered = program.sample(2000, layer=top, mean=True).mean(0)
        assert (whole - layered).abs().max() < 6 * 0.5 * (2 / 2000) ** 0.5  # probabilities vary by 1/4 at most
        for options in ({}, {"mean": True}, {"layer": 1}, {"layer": top}):
            assert program.sample(0, **options).shape == (0, *IMAGE)

    @pytest.mark.parametrize("layer", [0, -1, 9, 1.5, "z1"])
    def test_a_layer_that_is_none(self, program, layer):
        message = rf"^layer: found {layer!r}, expected 1 \(next to the data\) to {len(program.latents)} \(the top\)$"
        for call in (
            lambda: program.sample(3, layer=layer),
            lambda: program.encode(X, layer=layer),
            lambda: program.reconstruct(X, layer=layer),
        ):
            with pytest.raises(ValueError, match=message):
                call()

    def test_a_single_latent_is_a_layer_too(self):
        program = vae()
        assert program.sample(3, layer=1).shape == (3, *IMAGE)
        assert torch.equal(program.reconstruct(X, layer=1), program.reconstruct(X))
        for call in (lambda: program.sample(3, layer=2), lambda: program.encode(X, layer=2)):
            with pytest.raises(ValueError, match=r"^layer: found 2, expected 1 \(next to the data\) to 1 \(the top\)"):
                call()


@torch.no_grad()
def means_by_hand(name, program):
    """The mean of each layer given the means that the guide has before it."""
    guide, top = program.guide.eval(), len(program.latents)
    means = {}
    if name == "hvae":
        below = X
        for t in range(1, top + 1):
            means[f"z{t}"] = below = guide.posteriors[t - 1](below).mean
    elif name == "conv-ladder":
        way_down, features = guide.way_down, guide.upward(2 * X[:, None] - 1)
        h = way_down.start.expand(5, -1, -1, -1)
        for t in range(top, 0, -1):
            step = way_down.steps[t - 1]
            h = step.enter(h)
            p = step(h).base_dist
            shift = guide.corrections[t - 1](h, features[step.level_index])[:, : step.latent_channels]
            means[f"z{t}"] = p.loc + shift
            h = step.below(h, means[f"z{t}"])
    else:
        z, d, evidence = None, X, []
        if name != "hvae-top-down":
            for encoder, posterior in zip(guide.encoders, guide.posteriors, strict=True):
                d = encoder(d)
                evidence.append(posterior(d))
        for t in range(top, 0, -1):
            if name == "hvae-top-down":
                q = guide.posteriors[t - 1](*([X] if z is None else [X, z]))
            else:
                q = evidence[t - 1]
                if z is not None:
                    q = precision_weighted(q, program.transitions[t - 1].eval()(z))
            means[f"z{t}"] = z = q.mean
    program.train()
    return means


class TestReconstruct:
    def test_encodings_are_the_means_given_the_means_before(self, name, program):
        for t, site in enumerate(program.latents, 1):
            z = program.encode(X, layer=t)
            torch.testing.assert_close(z, means_by_hand(name, program)[site], rtol=1e-5, atol=1e-6)
            assert torch.equal(z, program.encode(X, layer=t)) and len(z.unique(dim=0)) == 5
        assert torch.equal(program.encode(X), program.encode(X, layer=1))

    def test_the_given_layer_and_those_above_are_at_their_means_and_those_below_are_drawn(self, program):
        for t in range(1, len(program.latents) + 1):
            (first, values), (second, others) = (latents_of(program.reconstruct, X, layer=t) for _ in range(2))
            assert first.shape == second.shape == X.shape
            assert torch.equal(first, second) == (t == 1)
            for s, site in enumerate(program.latents, 1):
                if s >= t:
                    assert torch.equal(values[site], program.encode(X, layer=s))
                else:
                    assert not torch.equal(values[site], others[site])

    @pytest.mark.parametrize("name", ["hvae", "hvae-top-down", "ladder", "ladder-batch-norm"])
    def test_the_layers_below_come_from_the_model(self, name, program):
        for t in range(1, len(program.latents) + 1):
            z = program.encode(X, layer=t)
            torch.manual_seed(8)
            found = program.reconstruct(X, layer=t)
            torch.manual_seed(8)
            with torch.no_grad(), pyro_vae.runtime.state.evaluating(program):
                for s in range(t - 1, 0, -1):
                    z = program.transitions[s - 1](z).sample()
                assert torch.equal(found, program.likelihood(z).mean)

    def test_the_deep_ladder_decodes_every_layer(self):
        program = HIERARCHIES["conv-ladder"]()
        h = program.model.way_down.start.expand(5, -1, -1, -1)
        with torch.no_grad():
            for t in (2, 1):
                step = program.model.way_down.steps[t - 1]
                h = step.enter(h)
                h = step.block(h + step.project(program.encode(X, layer=t)))
            expected = program.likelihood(program.model.way_down.leave(h).flatten(1)).mean
        torch.testing.assert_close(program.reconstruct(X), expected, rtol=1e-5, atol=1e-6)


class TestNothingIsLeftBehind:
    def test_modes_gradients_generators_and_the_store(self, program):
        program.model.eval()
        next(program.guide.children()).train()
        modes, before = [m.training for m in program.modules()], weights(program)
        for tensor in (program.encode(X), program.reconstruct(X, layer=2), program.sample(3, layer=1)):
            assert not tensor.requires_grad and tensor.dtype == torch.float32
        assert [m.training for m in program.modules()] == modes
        assert len(set(modes)) == 2  # there was something to restore
        assert same(weights(program), before)  # the statistics of a batch norm, too
        assert all(parameter.grad is None for parameter in program.parameters())
        assert list(pyro.get_param_store().keys()) == []
        generator = torch.get_rng_state()
        program.encode(X)
        assert torch.equal(torch.get_rng_state(), generator)  # means are no draws

    def test_it_follows_the_dtype_and_takes_arrays(self, program):
        program.double()
        for tensor in (torch.from_numpy(program.encode(X.numpy())), program.reconstruct(X.bool()), program.sample(3)):
            assert tensor.dtype == torch.float64 and tensor.isfinite().all()
