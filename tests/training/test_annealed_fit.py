"""fit on annealed pairs: what it climbs, refuses, writes, and takes up again."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine

import pyro_vae
from pyro_vae import ELBO, ProgramError, anneal_kl
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.schedules import Linear
from pyro_vae.training import fitting as training
from pyro_vae.training import validation
from tests.support.annealed import X, column, fit, fresh
from tests.support.programs import PAIRS, Stream, refused, same, weights
from tests.training.test_resume import interrupt


class TestTraining:
    def test_the_annealed_bound_is_what_is_climbed(self, double):
        pair, other = fresh(), fresh()
        torch.manual_seed(5)
        x = X.double()[torch.randperm(24)]  # the order of the only batch under seed 5
        (-ELBO().bound(*anneal_kl(*other, 0.3), x).mean()).backward()
        expected = {f"{i}.{n}": p - 0.1 * p.grad for i, half in enumerate(other) for n, p in half.named_parameters()}
        options = {"batch_size": 24, "num_epochs": 1, "lr": 0.1, "optimizer": torch.optim.SGD, "seed": 5}
        fit(anneal_kl(*pair, 0.3), X.double(), **options)
        torch.testing.assert_close(weights(*pair), expected, rtol=1e-10, atol=1e-14)

    def test_a_heavy_weight_shuts_the_latents_down(self):
        """A β-VAE of β = 100 gives up its KL, which without annealing grows as the two patterns are learnt."""
        kl = []
        for weight in (0.0, 100.0):
            pair = fresh()
            fit(anneal_kl(*pair, weight), num_epochs=60, lr=0.02)
            torch.manual_seed(0)
            kl.append(-trace_pair(ProgramPair(*pair), X.repeat(20, 1, 1)).terms()["z"].mean().item())
        assert kl[0] > 2 and abs(kl[1]) < 0.2

    @pytest.mark.parametrize("capacity", [False, True])
    def test_a_warm_up_longer_than_training_is_refused(self, capacity, tmp_path):
        pair, schedule, options = fresh(), Linear(6), {"batch_size": 5}
        message = (
            r"num_steps: found Linear\(6, .*\), longer than the training of 1 epochs of 5 steps, expected at most 5"
        )
        if capacity:
            options["objective"] = ELBO(capacity=schedule)
        else:
            pair = anneal_kl(*pair, schedule)
        refused(*pair, X, ValueError, message, tmp_path, **options)
        fit(pair, num_epochs=1, batch_size=4, objective=options.get("objective"))  # six steps are enough

    def test_one_half_alone_is_refused(self, tmp_path):
        model, guide = fresh()
        for pair in ((anneal_kl(model, guide, 0.5)[0], guide), (model, anneal_kl(model, guide, 0.5)[1])):
            refused(*pair, X, ValueError, "^model, guide: found one of the two annealed", tmp_path)

    def test_data_without_a_length_are_warmed_up_as_long_as_they_last(self):
        history = fit(anneal_kl(*fresh(), Linear(100)), Stream(), num_epochs=1)
        assert column(history, "kl_weight") == [0.04]

    def test_unknown_sites_are_refused_before_training(self, tmp_path):
        refused(*anneal_kl(*fresh(), 0.5, sites=["w"]), X, ProgramError, "site 'w': found in sites", tmp_path)

    def test_an_annealed_pair_that_is_no_module_is_trained_like_one(self, tmp_path):
        pair, other = fresh(), fresh()
        annealed = anneal_kl(poutine.scale(pair[0], scale=1.0), pair[1], Linear(8))
        history = fit(annealed, num_epochs=2, checkpoint=tmp_path)
        assert column(history, "kl_weight") == column(fit(anneal_kl(*other, Linear(8)), num_epochs=2), "kl_weight")
        assert same(weights(*pair), weights(*other))
        assert same(weights(*pyro_vae.load(tmp_path, fresh())), weights(*pair))

    def test_patience_and_the_best_record_go_by_the_loss(self, monkeypatch, tmp_path):
        estimates = iter([(-5.0, -1.0), (-4.0, -2.0), (-3.0, -3.0), (-2.0, -0.5)])  # the true bound rises all along
        monkeypatch.setattr(validation, "mean_estimate", lambda *args, **kwargs: next(estimates))
        pair, after = fresh(), []
        history = fit(
            anneal_kl(*pair, 2.0), valid=X, patience=2, num_epochs=4, checkpoint=tmp_path,
            callbacks=[lambda record: after.append(weights(*pair))],
        )  # fmt: skip
        assert history.stopped_early and column(history, "valid_loss") == [1.0, 2.0, 3.0]
        assert history.best["epoch"] == 1
        saved = pyro_vae.load(tmp_path)
        assert same(weights(saved.model, saved.guide), after[0])


def test_the_checkpoint_is_that_of_the_bare_programs(tmp_path):
    pair, other = fresh(), PAIRS["bernoulli-mlp"]()
    fit(anneal_kl(*pair, Linear(12)), checkpoint=tmp_path)
    loaded = pyro_vae.load(tmp_path)
    assert type(loaded) is pyro_vae.VAE
    assert same(weights(loaded.model, loaded.guide), weights(*pair))
    pyro_vae.load(tmp_path, anneal_kl(*other, 0.5))
    assert same(weights(*other), weights(*pair))


class TestResuming:
    @pytest.mark.parametrize("at", [6, 8, 5])  # in the middle, at the last step, after the first of an epoch
    @pytest.mark.parametrize("kind", ["weight", "capacity"])
    def test_a_resumed_run_ends_as_an_uninterrupted_one(self, kind, at, tmp_path, monkeypatch):
        def run(pair, **options):
            schedule = Linear(11, end=3.0)
            if kind == "weight":
                return fit(anneal_kl(*pair, schedule), valid=X[:9], **options)
            return fit(pair, objective=ELBO(capacity=schedule, capacity_weight=2.0), valid=X[:9], **options)

        expected, pair = fresh(), fresh()
        whole = run(expected)
        original = training.RunState.count_steps

        def count_steps(state, *args):
            original(state, *args)
            if state.step == at:
                interrupt()

        with monkeypatch.context() as patch:
            patch.setattr(training.RunState, "count_steps", count_steps)
            assert run(pair, checkpoint=tmp_path).interrupted
        pair = PAIRS["bernoulli-mlp"]()  # another process would start from other weights
        history = run(pair, checkpoint=tmp_path, resume=True)
        assert same(weights(*pair), weights(*expected))
        for record, reference in zip(history.records, whole.records, strict=True):
            assert {**record, "seconds": 0} == {**reference, "seconds": 0}

    @pytest.mark.parametrize(
        ("pair", "objective", "message"),
        [
            (lambda: anneal_kl(*fresh(), 0.5), None, r"kl_weight: found Annealed\(kl_weight=0.5\), expected Annealed"),
            (lambda: anneal_kl(*fresh(), Linear(12)), None, r"kl_weight: found .*Linear\(12, .* expected .*Linear\(8"),
            (lambda: anneal_kl(*fresh(), Linear(8), ["z"]), None, r"kl_weight: found Annealed\(kl_weight\(z\)="),
            (
                lambda: anneal_kl(*anneal_kl(*fresh(), 0.5), Linear(8)),
                None,
                r"kl_weight: found Annealed\(.*0.5\), kl_w",
            ),
            (fresh, None, "kl_weight: found None, expected Annealed"),
            (None, ELBO(free_bits=0.2), r"objective: found ELBO\(.*free_bits=0.2.*\), expected ELBO\(.*free_bits=0.1"),
            (None, ELBO(capacity=Linear(8)), r"objective: found ELBO\(.*capacity=Linear\(8.*, expected ELBO\("),
        ],
    )
    def test_another_run_is_not_resumed(self, pair, objective, message, tmp_path):
        first = ELBO(free_bits=0.1)
        fit(anneal_kl(*fresh(), Linear(8)), objective=first, num_epochs=2, checkpoint=tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        annealed = pair() if pair else anneal_kl(*fresh(), Linear(8))
        with pytest.raises(ValueError, match=f"^{message}.* as in the run in "):
            fit(annealed, objective=objective or first, checkpoint=tmp_path, resume=True)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
