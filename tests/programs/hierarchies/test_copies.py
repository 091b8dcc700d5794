"""Copies of a hierarchy, in memory and from files: they draw the same and share the same."""

from __future__ import annotations

import copy

import pytest
import torch

import pyro_vae
from pyro_vae import ELBO, LadderVAE, training
from tests.support.hierarchies import SHARING, X
from tests.support.programs import IMAGE, same, weights


class TestCopies:
    def drawn(self, program):
        torch.manual_seed(4)
        bound = ELBO(num_particles=2).bound(program.model, program.guide, X).detach()
        return [program.sample(3), program.sample(3, layer=1), program.reconstruct(X, layer=2), bound]

    def test_a_deep_copy_draws_the_same_and_is_independent(self, program):
        clone = copy.deepcopy(program)
        for ours, theirs in zip(self.drawn(program), self.drawn(clone), strict=True):
            assert torch.equal(ours, theirs)
        before = weights(program)
        training.fit(clone.model, clone.guide, X, num_epochs=1, batch_size=5, seed=0, progress=False)
        assert same(weights(program), before) and not same(weights(clone), before)

    @pytest.mark.parametrize("given", ["program", "pair"])
    def test_what_is_loaded_draws_the_same_and_shares_the_same(self, name, program, given, tmp_path):
        training.fit(program.model, program.guide, X, num_epochs=2, batch_size=5, lr=0.05, seed=0, progress=False)
        pyro_vae.save(program if given == "program" else (program.model, program.guide), tmp_path)
        loaded = pyro_vae.load(tmp_path)
        assert type(loaded) is type(program) and same(weights(loaded), weights(program))
        for half in (program.model, program.guide, loaded.model, loaded.guide):
            half.eval()  # batch statistics of train mode differ in the last digit of what was run before
        for ours, theirs in zip(self.drawn(program), self.drawn(loaded), strict=True):
            assert torch.equal(ours, theirs)
        if name == "conv-ladder":
            assert loaded.model.way_down is loaded.guide.way_down
        elif name in SHARING:
            assert loaded.model.transitions is loaded.guide.transitions

    def test_parts_are_rebuilt_too(self, tmp_path):
        program = LadderVAE(
            prior=pyro_vae.StandardNormal(2),
            transitions=[pyro_vae.DiagonalNormal(pyro_vae.MLP(2, (2, 3), ()))],
            likelihood=pyro_vae.Bernoulli(pyro_vae.MLP(3, IMAGE, ()), IMAGE),
            encoders=[pyro_vae.MLP(IMAGE, None, (5,)), pyro_vae.MLP(5, None, (4,))],
            posteriors=[pyro_vae.DiagonalNormal(pyro_vae.MLP(d, (2, n), ())) for d, n in ((5, 3), (4, 2))],
        )
        pyro_vae.save(program, tmp_path)
        loaded = pyro_vae.load(tmp_path)
        assert same(weights(loaded), weights(program)) and loaded.model.transitions is loaded.guide.transitions
        assert torch.equal(loaded.encode(X, layer=2), program.encode(X, layer=2))
