"""Pyro's tutorials under every estimator: held to formulas by hand and to Pyro, or refused in one sentence."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from pyro_vae import CIWAE, ELBO, IWAE, MIWAE, PIWAE, ProgramError, RenyiBound, anneal_kl, fit, log_likelihood
from pyro_vae import log_weights as weigh
from tests.support.tutorial_runs import Tutorial, by_hand, draws, exactly, gradients, seeded
from tests.support.tutorials import BATCH

pytestmark = pytest.mark.usefixtures("double")
BOUNDS = (ELBO(4), IWAE(4), MIWAE(2, 2), PIWAE(2, 2), CIWAE(0.3, 4), RenyiBound(0.5, 4))


@pytest.fixture(params=["VAE", "M2", "M2 labelled", "CVAE", "DMM"])
def tutorial(request, double) -> Tutorial:
    return Tutorial(request.param)


class TestEveryTutorial:
    @pytest.mark.parametrize("num_particles", [1, 4])
    def test_log_weights_by_hand(self, tutorial, num_particles):
        """Called by a method with all arguments but x filled in, and as modules of one argument, packed."""
        expected = by_hand(tutorial, draws(tutorial.guide, tutorial.x, num_particles))
        for run in ((tutorial.model, tutorial.guide, tutorial.x), (*tutorial.programs, tutorial.packed)):
            log_w = seeded(weigh, *run, num_particles)
            assert log_w.shape == (num_particles, BATCH) and log_w.std() > 0.01
            exactly(log_w, expected.expand(num_particles, BATCH))

    def test_scales_do_not_count_and_masks_do(self, tutorial):
        model, guide, x = tutorial.model, tutorial.guide, tutorial.x
        expected = seeded(weigh, model, guide, x, 4)
        scaled = (poutine.scale(program, scale=0.1) for program in (model, guide))
        exactly(seeded(weigh, *scaled, x, 4), expected)
        exactly(seeded(weigh, *anneal_kl(model, guide, 0.1), x, 4), expected)
        mask = torch.arange(BATCH) % 2 == 0
        masked = (poutine.mask(program, mask=mask) for program in (model, guide))
        exactly(seeded(weigh, *masked, x, 4), torch.where(mask, expected, 0.0))

    @pytest.mark.parametrize("objective", BOUNDS, ids=repr)
    def test_bounds_and_where_their_gradients_go(self, tutorial, objective):
        bound = objective.bound(tutorial.model, tutorial.guide, tutorial.x)
        assert bound.shape == (BATCH,) and torch.isfinite(bound).all()
        for name, gradient in gradients(bound.sum(), tutorial.module).items():
            assert (gradient is None or not gradient.any()) == (name in tutorial.idle_names), name

    @pytest.mark.parametrize("num_particles", [1, 4])
    @pytest.mark.parametrize("anneal", [1.0, 0.3])
    def test_the_elbo_is_pyros(self, tutorial, num_particles, anneal):
        """The same draws give the same loss, under KL annealing too; with a path for all latents, the same gradient."""
        run = *anneal_kl(tutorial.model, tutorial.guide, anneal), tutorial.x
        pyros = Trace_ELBO(num_particles, vectorize_particles=True, max_plate_nesting=1)
        loss = seeded(ELBO(num_particles).differentiable_loss, *run)
        latents = draws(tutorial.guide, tutorial.x, num_particles)
        exactly(loss, -by_hand(tutorial, latents, anneal).mean(0).sum())
        exactly(loss.item(), seeded(pyros.loss, *run))
        if "y" not in latents:
            expected = gradients(seeded(pyros.differentiable_loss, *run), tutorial.module)
            for name, gradient in gradients(loss, tutorial.module).items():
                exactly(gradient, expected[name])

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    @pytest.mark.parametrize("make", [ELBO, IWAE])
    def test_gradients_by_the_path_alone(self, tutorial, make, gradient):
        """For the guide sum_k c_k d(log p - log q)/dz dz/dφ, with c = w, or w² for IWAE's dreg; for the model w."""
        objective, run = make(4, gradient=gradient), (tutorial.model, tutorial.guide, tutorial.x)
        latents = draws(tutorial.guide, tutorial.x)
        if "y" in latents:
            with pytest.raises(ProgramError, match=f"^site 'y': found a latent that cannot be .*gradient='{gradient}'"):
                objective.bound(*run)
            return
        found = gradients(seeded(objective.bound, *run).sum(), tutorial.module)
        constant = copy.deepcopy(tutorial.module).requires_grad_(False)
        log_x, log_p, log_q = constant.by_hand(latents, *tutorial.args)
        path = log_x + log_p - log_q
        w = path.detach().softmax(0) if make is IWAE else torch.full((4, 1), 0.25)
        c = w.square() if make is IWAE and gradient == "dreg" else w
        fixed = {name: value.detach() for name, value in latents.items()}
        log_x, log_p, _ = tutorial.module.by_hand(fixed, *tutorial.args)
        expected = gradients((c * path + w * (log_x + log_p)).sum(), tutorial.module)
        assert {name for name, value in expected.items() if value is None} == tutorial.idle_names
        for name in expected.keys() - tutorial.idle_names:
            exactly(found[name], expected[name])

    def test_log_likelihood_against_draws_of_the_prior(self, tutorial):
        """Which Pyro draws and scores; for each of 6 data, 5 standard errors of the difference: a chance of 6e-7."""
        with torch.no_grad(), pyro.plate("particles", 20_000, dim=-2), pyro.get_param_store().scope():
            trace = poutine.trace(tutorial.model).get_trace(tutorial.x)
            trace.compute_log_prob()
        p = sum(trace.nodes[name]["log_prob"] for name in trace.observation_nodes).exp()
        error = p.std(0) / p.mean(0) / p.shape[0] ** 0.5
        found = log_likelihood(*tutorial.programs, tutorial.packed, 2000, chunk_size=500, seed=0)
        assert ((found.values - p.mean(0).log()).abs() < 5 * (error.square() + found.std_error.square()).sqrt()).all()
        assert error.max() < 0.2 and found.std_error.max() < 0.2

    def test_svi_improves_it(self, tutorial):
        """By IWAE's dreg, where there is a path."""
        before = {name: value.clone() for name, value in tutorial.module.named_parameters()}
        run = tutorial.model, tutorial.guide, tutorial.x
        start, by_score = seeded(IWAE(20).bound, *run).mean(), "y" in draws(*run[1:])
        objective = IWAE(4, gradient="reparam" if by_score else "dreg")
        svi = SVI(*run[:2], pyro.optim.Adam({"lr": 0.04}), loss=objective)
        for _ in range(25):
            svi.step(tutorial.x)
        assert seeded(IWAE(20).bound, *run).mean() > start + 0.2
        for name, value in tutorial.module.named_parameters():
            assert torch.equal(value, before[name]) == (name in tutorial.idle_names), name

    def test_fit_improves_it(self, tutorial):
        before = seeded(IWAE(20).bound, *tutorial.programs, tutorial.packed).mean()
        options = {"num_epochs": 35, "batch_size": BATCH, "lr": 0.05, "seed": 0, "progress": False}
        idle = tutorial.idle_names  # networks for labels that are all known, or for a baseline
        with pytest.warns(UserWarning, match=f"no gradient of {len(idle)} parameters") if idle else nullcontext():
            fit(*tutorial.programs, tutorial.packed, objective=IWAE(8), **options)
        assert seeded(IWAE(20).bound, *tutorial.programs, tutorial.packed).mean() > before + 0.2
