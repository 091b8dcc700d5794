"""A compiled function is the function: for every program and objective, after whatever may change between two calls.

Most tests trace without compiling the graph further, which changes no number; what TorchInductor makes of it is tested
on a few programs of each kind. Draws are the same, so values are compared and not their distributions.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ReweightedWakeSleep
from pyro_vae.compilation import compiled as compilation
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.inference.importance import log_weights
from pyro_vae.schedules import Linear
from pyro_vae.training.checkpoint import as_module
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.support.every_objective import ONE_GRADIENT_EACH, all_of_them
from tests.support.pairwise import in_turn
from tests.support.programs import PAIRS, bits, check_close, traced

pytestmark = pytest.mark.usefixtures("without_validation")

X = bits(6)
OBJECTIVES = all_of_them(4)
FEW = {"ELBO": ELBO(), "IWAE, dreg": IWAE(4, gradient="dreg"), "reweighted": ReweightedWakeSleep(4)}
PROGRAMS = (
    "tutorial",
    "hierarchy",
    "bernoulli-convolutional",
    "hvae",
    "hvae-top-down",
    "ladder-batch-norm",
    "conv-ladder",
)
# Parts: tests/programs/test_composition.py. Tracing takes half a second, so that in `make test` each bound has one
# estimator of its gradient, these in turn.
CASES = [("tutorial", each) if each in ONE_GRADIENT_EACH else pytest.param("tutorial", each, marks=pytest.mark.cross)
         for each in OBJECTIVES]  # fmt: skip
CASES += in_turn(PROGRAMS, FEW)


def outcome(step, pair, x, seed):
    """What a step returns, the gradients it leaves, and the buffers."""
    torch.manual_seed(seed)
    bounds = step(x)
    gradients = {name: parameter.grad for name, parameter in pair.named_parameters()}
    return {"bounds": bounds} | gradients | {name: buffer.clone() for name, buffer in pair.named_buffers()}


def both(make, objective, lower=traced):
    """An eager and a compiled step, each of a pair of its own with equal weights."""
    steps = []
    for kind in (EagerStep, CompiledStep):
        torch.manual_seed(7)
        model, guide = make()
        pair = as_module((model, guide)).train()
        options = {} if kind is EagerStep else {"lower": lower}
        steps.append((kind(model, guide, pair, objective, **options), pair))
    return steps


@pytest.mark.parametrize(("name", "bound"), CASES)
def test_the_step_of_every_program_and_objective(name, bound):
    objective = {**OBJECTIVES, **FEW}[bound]
    (eager, expected), (compiled, found) = both(PAIRS[name], objective)
    for seed in (1, 2):  # the second is the first that runs the graph alone
        check_close(
            outcome(compiled, found, X, seed), outcome(eager, expected, X, seed), rtol=1e-4, atol=1e-5, equal_nan=True
        )
    assert compiled.gradients.reason is None and compiled.gradients.num_traces == 1


@pytest.mark.parametrize("name", ["tutorial", "hvae", "ladder-batch-norm", "conv-ladder", "decoder-convolutional"])
def test_the_likelihood_of_a_batch_again_and_again(name):
    model, guide = (half.eval() for half in PAIRS[name]())

    def weigh(x):
        with torch.no_grad():
            return [log_weights(model, guide, x, 5)]

    compiled = Compiled(weigh, [model, guide], lower=traced)
    for x in (X, bits(6, seed=1)):
        for seed in range(3):
            torch.manual_seed(seed)
            (found,) = compiled(x)
            torch.manual_seed(seed)
            torch.testing.assert_close(found, weigh(x)[0], rtol=1e-5, atol=1e-5)
    assert compiled.reason is None and compiled.num_traces == 1


INDUCED = {
    "batch normalisation, IWAE dreg": (PAIRS["tutorial"], IWAE(4, gradient="dreg")),
    "convolutions, ELBO": (PAIRS["bernoulli-convolutional"], ELBO()),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.cross) for case in INDUCED])
def test_compiled_by_inductor(case):
    (eager, expected), (compiled, found) = both(*INDUCED[case], lower=compilation.inductor)
    for seed in (1, 2):
        check_close(outcome(compiled, found, X, seed), outcome(eager, expected, X, seed), rtol=1e-4, atol=1e-5)
    assert compiled.gradients.reason is None and compiled.gradients.num_traces == 1


def triple(parameter):
    parameter.grad.mul_(3)


CHANGES = {
    "replaced": lambda pair: setattr(pair.guide.hidden, "weight", nn.Parameter(torch.ones(6, 16))),
    "cast": lambda pair: pair.double(),
    "eval": lambda pair: pair.eval(),
    "frozen": lambda pair: pair.guide.hidden.requires_grad_(False),
    "another layer": lambda pair: setattr(pair.model.decoder, "2", nn.Tanh()),
    "a buffer": lambda pair: pair.model.decoder[1].running_mean.fill_(3.0),
    "a new buffer": lambda pair: pair.model.decoder[1].register_buffer("running_mean", torch.full((6,), 3.0)),
    "momentum": lambda pair: setattr(pair.model.decoder[1], "momentum", 0.5),
    "weights": lambda pair: [parameter.data.mul_(0.5) for parameter in pair.parameters()],
    "a hook": lambda pair: pair.guide.hidden.register_forward_hook(lambda module, x, y: 2 * y) and None,
    "a hook of a parameter": lambda pair: pair.guide.hidden.weight.register_hook(torch.neg),
    "a hook after it": lambda pair: pair.guide.hidden.weight.register_post_accumulate_grad_hook(triple),
    "a number of the objective": None,
}


class TestNothingStale:
    """After each change the compiled step must do what the eager one does after the same change."""

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_between_two_steps(self, change):
        objective = ELBO(2, free_bits=0.1)
        results = []
        for step, pair in both(PAIRS["tutorial"], objective):
            objective.free_bits = 0.1
            outcome(step, pair, X, 0), outcome(step, pair, X, 1)
            if change == "a number of the objective":
                objective.free_bits = 30.0
            else:
                CHANGES[change](pair)
            of_a_parameter = change in ("a hook of a parameter", "a hook after it") and isinstance(step, CompiledStep)
            x = X.double() if change == "cast" else X
            step.parameters = list(pair.parameters())  # as a new step would
            pair.zero_grad()
            with pytest.warns(UserWarning, match="a parameter has a hook") if of_a_parameter else nullcontext():
                results.append(outcome(step, pair, x, 2))
        check_close(results[1], results[0], rtol=1e-4, atol=1e-5)

    def test_two_models_of_one_shape(self):
        (eager, expected), (compiled, found) = both(PAIRS["tutorial"], ELBO())
        (_, _), (other, other_pair) = both(PAIRS["tutorial"], ELBO())
        with torch.no_grad():
            for parameter in other_pair.parameters():
                parameter.add_(1.0)
        outcome(compiled, found, X, 1), outcome(other, other_pair, X, 1)
        outcome(eager, expected, X, 1)
        check_close(outcome(compiled, found, X, 2), outcome(eager, expected, X, 2), rtol=1e-4, atol=1e-5)

    def test_a_batch_of_another_size_or_type_runs_as_it_is(self):
        (eager, expected), (compiled, found) = both(PAIRS["tutorial"], ELBO())
        for seed, x in enumerate([X, X, X[:4], X, X[:, :, :].transpose(1, 2), X]):
            check_close(outcome(compiled, found, x, seed), outcome(eager, expected, x, seed), rtol=1e-4, atol=1e-5)
        assert compiled.gradients.num_traces == 1

    def test_only_the_size_that_is_worth_it_is_compiled(self):
        compiled = Compiled(lambda x: [x + 1], [], num_data=4, lower=traced)
        compiled(X)
        assert compiled.num_traces == 0
        compiled(X[:4])
        assert compiled.num_traces == 1

    @pytest.mark.parametrize("weight", ["schedule", "tensor", "capacity"])
    def test_a_weight_that_changes_is_read_anew_and_nothing_is_compiled_anew(self, weight):
        value = torch.zeros(()) if weight == "tensor" else Linear(10, end=2.0)
        objective = ELBO(capacity=value, capacity_weight=2.0) if weight == "capacity" else ELBO()

        def make():
            pair = PAIRS["tutorial"]()
            return pair if weight == "capacity" else pyro_vae.anneal_kl(*pair, value)

        (eager, expected), (compiled, found) = both(make, objective)
        bounds = []
        for step in range(4):
            value.fill_(0.1 * step) if weight == "tensor" else value.set_step(step)
            result = outcome(compiled, found, X, 0)
            check_close(result, outcome(eager, expected, X, 0), rtol=1e-4, atol=1e-5)
            bounds.append(result["bounds"][1].item())
        assert len(set(bounds)) == 4
        assert compiled.gradients.num_traces == 1

    def test_a_mode_that_comes_and_goes_is_compiled_once(self):
        layer = nn.Dropout(0.5)
        compiled = Compiled(lambda x: [layer(x)], [layer], lower=traced)
        for mode in [True, False] * 6:
            layer.train(mode)
            torch.manual_seed(0)
            found = compiled(X)[0]
            torch.manual_seed(0)
            assert torch.equal(found, layer(X))
        assert compiled.num_traces == 2 and compiled.version == 2
        layer.train()
        assert compiled.is_current() and compiled.version == 1

    def test_what_changes_at_every_call_is_given_up(self):
        layer = nn.Dropout(0.1)
        compiled = Compiled(lambda x: [x * layer.p], [layer], lower=traced)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for p in range(1, 12):
                layer.p = p / 20
                torch.testing.assert_close(compiled(X)[0], X * layer.p)
        assert [str(warning.message) for warning in caught] == [
            "the function is not compiled: compiled 8 times, it changed again: attribute 'p' of Dropout (found 0.45, "
            "it was 0.4)"
        ]
