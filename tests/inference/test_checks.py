"""Programs that are no pair: each is refused before any training, by a message that names the site."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import ELBO, IWAE, ProgramError, log_likelihood, log_weights, training
from tests.support.no_pairs import (
    FOUR,
    NO_PAIRS,
    Program,
    data_plate,
    good_guide,
    good_model,
    model_of_many_data,
    two_plates,
)
from tests.support.programs import refused, same, weights


@pytest.mark.parametrize(("model", "guide", "message"), NO_PAIRS.values(), ids=NO_PAIRS)
class TestNoPair:
    @pytest.mark.parametrize("particles", [1, 2])
    def test_in_training(self, model, guide, message, particles, tmp_path):
        objective = IWAE(num_particles=particles)
        refused(Program(model), Program(guide), FOUR, ProgramError, message, tmp_path, objective=objective)

    def test_in_scoring(self, model, guide, message):
        with pytest.raises(ProgramError, match=message):
            log_likelihood(Program(model), Program(guide), FOUR, num_particles=2)

    @pytest.mark.parametrize("particles", [1, 2])
    def test_in_weighing(self, model, guide, message, particles):
        if particles > 1:  # Pyro's plate of particles may be the first to notice
            message += (
                r"|^Shape mismatch inside plate\(.*at site z .*\.to_event|^found another plate at dim=-2, .*max_plate"
            )
        with pytest.raises(ProgramError, match=message):
            log_weights(Program(model), Program(guide), FOUR, particles)


class TestProgramErrors:
    def test_the_good_pair_of_this_file_is_good(self):
        assert log_weights(Program(good_model), Program(good_guide), FOUR, 3).shape == (3, 20)

    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_particles_go_left_of_the_plates_of_the_program(self, num_particles):
        """Whether their number was said or not."""
        model, guide = Program(two_plates(True)), Program(two_plates(False))
        weights = []
        for nesting in (1, 2, 3):
            torch.manual_seed(0)
            weights.append(log_weights(model, guide, FOUR, num_particles, max_plate_nesting=nesting))
        assert weights[0].shape == (num_particles, 20) and weights[0].std() > 0.1
        assert torch.equal(weights[1], weights[2])
        torch.testing.assert_close(weights[0].mean(), weights[1].mean(), rtol=0, atol=1.0)  # of other draws

    def test_programs_with_two_plates_train_and_are_scored_when_it_is_said(self):
        model, guide = Program(two_plates(True)), Program(two_plates(False))
        for objective in (IWAE(num_particles=2, max_plate_nesting=2), Trace_ELBO()):
            training.fit(
                model, guide, FOUR, objective=objective, batch_size=5, num_epochs=1, valid=FOUR, progress=False
            )
        estimate = log_likelihood(model, guide, FOUR, num_particles=3, max_plate_nesting=2)
        assert torch.isfinite(estimate.values).all()

    def test_observed_data_without_to_event(self, tmp_path):
        # Pyro itself refuses to broadcast four pixels over a plate of another size.
        message = r"^Shape mismatch inside plate\('data'\) at site x dim -1, 5 vs 4; .*\.to_event"
        refused(Program(model_of_many_data), Program(good_guide), FOUR, ProgramError, message, tmp_path)

    def test_observed_data_without_to_event_as_many_as_the_data(self):
        with pytest.raises(ProgramError, match=r"^site 'x': found a log-probability of shape \(4, 4\) in the model"):
            log_weights(Program(model_of_many_data), Program(good_guide), FOUR[:4])

    def test_a_latent_without_a_reparameterised_draw(self, tmp_path):
        def guide(self, x):
            with data_plate(x):
                pyro.sample("z", dist.Bernoulli(logits=self.weight.expand(len(x), 3)).to_event(1))

        def model(self, x):
            with data_plate(x):
                z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)

        model, guide = Program(model), Program(guide)
        message = "^site 'z': found a latent that cannot be reparameterised .* expected one with rsample for gradient="
        for objective in (ELBO(gradient="stl"), IWAE(num_particles=2, gradient="dreg")):
            before = weights(model, guide)
            with pytest.raises(ProgramError, match=message):
                objective.differentiable_loss(model, guide, FOUR)
            refused(model, guide, FOUR, ProgramError, message, tmp_path, objective=objective)
            assert same(weights(model, guide), before)
        # Where no gradient is asked for, discrete latents are as good as any; and their score trains them.
        assert torch.isfinite(log_likelihood(model, guide, FOUR, num_particles=3).values).all()
        for objective in (ELBO(2), ELBO(kl="analytic"), IWAE(2), pyro.infer.TraceGraph_ELBO()):
            before = weights(guide)
            with pytest.warns(UserWarning, match=r"no gradient of 1 parameters .*\(model.weight\)"):  # it uses none
                training.fit(model, guide, FOUR, objective=objective, batch_size=5, num_epochs=1, progress=False)
            assert not same(weights(guide), before)
