"""Programs that are no pair: each is refused before any training, by a message that names the site."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyro_vae import ELBO, IWAE, ProgramError, log_likelihood, log_weights, training
from tests.support.programs import refused, same, weights


def normal(size, event_dims=1):
    return dist.Normal(torch.zeros(size), 1.0).to_event(event_dims)


class Program(PyroModule):
    """A program given as a function of itself and the data, with one weight."""

    def __init__(self, run):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def data_plate(x, **options):
    return pyro.plate("data", len(x), dim=-1, **options)


def good_guide(self, x, others=()):
    with data_plate(x):
        pyro.sample("z", dist.Normal(self.weight.expand(len(x), 3), 1.0).to_event(1))
        for name, size in others:
            pyro.sample(name, normal(size))


def good_model(self, x):
    with data_plate(x):
        z = pyro.sample("z", normal(3))
        pyro.sample(
            "x", dist.Normal(self.weight + z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 4]).to_event(1), obs=x
        )


def guide_with_more(self, x):
    good_guide(self, x, [("extra", 2)])


def guide_of_data(self, x):
    good_guide(self, x, [("x", 4)])


def guide_with_less(self, x):
    with data_plate(x):
        self.weight.expand(len(x))


def global_latent(self, x):
    pyro.sample("z", normal(3))


def wrong_plate(self, x):
    with pyro.plate("data", 7, dim=-1):
        pyro.sample("z", normal(3))


def model_without_data(self, x):
    with data_plate(x):
        pyro.sample("z", normal(3))


def missing_to_event(self, x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(self.weight.expand(len(x), len(x)), 1.0))


def missing_to_event_of_one(self, x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(self.weight.expand(len(x), 1), 1.0))


def model_of_scalars(self, x):
    with data_plate(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", normal(4), obs=x)


def model_of_other_data(self, x):
    with data_plate(x):
        pyro.sample("z", normal(3))
        pyro.sample("x", normal(1), obs=x)


def model_of_many_data(self, x):
    with data_plate(x):
        pyro.sample("z", normal(3))
        pyro.sample("x", normal(4, 0), obs=x)


def two_plates(observe):
    def run(self, x):
        with pyro.plate("pixels", 4, dim=-2), data_plate(x):
            z = pyro.sample("z", dist.Normal(self.weight, 1.0))
            if observe:
                pyro.sample("x", dist.Normal(self.weight + z, 1.0), obs=x.T)

    return run


FOUR = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
NO_PAIRS = {
    "a site the model lacks": (
        good_model,
        guide_with_more,
        r"^site 'extra': found in the guide, but the model has the latent sites \['z'\]",
    ),
    "a site the model observes": (
        good_model,
        guide_of_data,
        "^site 'x': found in the guide, but the model observes it",
    ),
    "a site the guide lacks": (
        good_model,
        guide_with_less,
        r"^site 'z': found in the model, but the guide has the latent sites \[\]",
    ),
    "a latent outside the data plate": (
        good_model,
        global_latent,
        "^site 'z': found outside the data plate of the guide, expected",
    ),
    "a plate of another size": (
        good_model,
        wrong_plate,
        r"^site 'z': found in a data plate of size 7 in the guide, expected one of size "
        r"len\(x\) = \d+",
    ),
    "no data observed": (
        model_without_data,
        good_guide,
        "^found no observed site in the model, expected one such as pyro.sample",
    ),
    "a guide without to_event": (
        model_of_scalars,
        missing_to_event,
        r"^site 'z': found a log-probability of shape \(\d+, \d+\) in the "
        r"guide, .*\.to_event",
    ),
    "a latent of length one without to_event": (
        model_of_scalars,
        missing_to_event_of_one,
        r"^site 'z': found a log-probability of shape \(\d+, \d+\) in the guide, .*\.to_event",
    ),
    "data of another event shape": (
        model_of_other_data,
        good_guide,
        r"^site 'x': found a value of shape \(\d+, 4\) in the model, expected "
        r"one of a distribution of batch shape \([\d, ]+\) and event shape \(1,\)",
    ),
    "a further plate": (
        two_plates(True),
        two_plates(False),
        "^site 'z': found in the plate 'pixels' at dim=-2 of the guide, expected "
        r"max_plate_nesting \(now 1\) to count all of the program's own plates",
    ),
}


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

    def test_particles_that_meet_a_plate_of_the_program(self):
        model, guide = Program(two_plates(True)), Program(two_plates(False))
        message = (
            r"^found another plate at dim=-2, where the particles go, expected max_plate_nesting \(now 1\) to count"
        )
        with pytest.raises(ProgramError, match=message):
            log_weights(model, guide, FOUR, 3)
        assert log_weights(model, guide, FOUR, 3, max_plate_nesting=2).shape == (3, 20)

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
        message = r"^Shape mismatch inside plate\('data'\) at site x dim -1, 2 vs 4; .*\.to_event"
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
