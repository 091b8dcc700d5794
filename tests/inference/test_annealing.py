"""Annealing a pair: what the weight may be and which sites it weighs; under this package's ELBO and under Pyro's."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate

import pyro_vae
from pyro_vae import ELBO, anneal_kl
from pyro_vae.inference.annealing import bare, kl_weights
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.kl import analytic_kl
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.schedules import Linear
from tests.support.programs import PAIRS, HierarchyGuide, HierarchyModel, bits, same, seeded, vae, weights

pytestmark = pytest.mark.usefixtures("double")
CLOSE = {"rtol": 0, "atol": 1e-11}


@pytest.fixture
def pair():
    program = vae()
    return program.model, program.guide


@pytest.fixture
def x():
    return bits(6).double()


def log_ratios(model, guide, x):
    """By site: log p(x|z) of the data, log p - log q of a latent, ``(B,)``, by Pyro's own traces of a bare pair."""
    torch.manual_seed(3)
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    model_trace.compute_log_prob(), guide_trace.compute_log_prob()
    ratios = {name: model_trace.nodes[name]["log_prob"] for name in model_trace.observation_nodes}
    for name in model_trace.stochastic_nodes:
        if name != "data":
            ratios[name] = model_trace.nodes[name]["log_prob"] - guide_trace.nodes[name]["log_prob"]
    return ratios


def as_schedule(weight):
    schedule = Linear(4, end=4 * weight)
    schedule.step()
    return schedule


KINDS = {
    "number": float,
    "tensor": torch.tensor,
    "one-entry tensor": lambda w: torch.tensor([w]),
    "schedule": as_schedule,
}


class TestWeight:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 4.0])
    def test_the_bound_weighs_the_latents_and_not_the_data(self, kind, weight, pair, x):
        expected = log_ratios(*pair, x)
        annealed = anneal_kl(*pair, KINDS[kind](weight))
        with pyro.validation_enabled(True):
            bound, loss = seeded(ELBO().bound, *annealed, x), seeded(ELBO().loss, *annealed, x)
        torch.testing.assert_close(bound, expected["x"] + weight * expected["z"], **CLOSE)
        assert loss == pytest.approx(-bound.sum().item(), abs=1e-11)

    def test_a_whole_number_is_a_weight(self, pair, x):
        expected = log_ratios(*pair, x)
        bound = seeded(ELBO().bound, *anneal_kl(*pair, 4), x)
        torch.testing.assert_close(bound, expected["x"] + 4 * expected["z"], **CLOSE)

    def test_a_tensor_and_a_schedule_can_change_between_runs(self, pair, x):
        expected, tensor, schedule = log_ratios(*pair, x), torch.tensor(0.0), Linear(2, start=0.5, end=1.5)
        by_tensor, by_schedule = anneal_kl(*pair, tensor), anneal_kl(*pair, schedule)
        for weight in (0.5, 1.0, 1.5):
            tensor.fill_(weight)
            for annealed in (by_tensor, by_schedule):
                bound = seeded(ELBO().bound, *annealed, x)
                torch.testing.assert_close(bound, expected["x"] + weight * expected["z"], **CLOSE)
                assert kl_weights(annealed[0]) == kl_weights(annealed[1]) == {"kl_weight": weight}
            schedule.step()

    @pytest.mark.parametrize("sites", [["z1"], ("z2",), ["z2", "z1"]])
    def test_named_sites_alone_are_weighed(self, sites, x):
        pair = HierarchyModel(), HierarchyGuide()
        expected = log_ratios(*pair, x)
        bound = seeded(ELBO().bound, *anneal_kl(*pair, 0.3, sites=sites), x)
        terms = [ratio * (0.3 if name in sites else 1.0) for name, ratio in expected.items()]
        torch.testing.assert_close(bound, sum(terms), **CLOSE)

    def test_nested_calls_weigh_sites_differently(self, x):
        pair = HierarchyModel(), HierarchyGuide()
        expected = log_ratios(*pair, x)
        annealed = anneal_kl(*anneal_kl(*pair, as_schedule(0.3), sites=["z1"]), 2.0, sites=["z2"])
        bound = seeded(ELBO().bound, *annealed, x)
        torch.testing.assert_close(bound, expected["x"] + 0.3 * expected["z1"] + 2.0 * expected["z2"], **CLOSE)
        assert kl_weights(annealed[0]) == {"kl_weight(z1)": pytest.approx(0.3), "kl_weight(z2)": 2.0}
        twice = anneal_kl(*anneal_kl(*pair, 0.5), 0.5)
        bound = seeded(ELBO().bound, *twice, x)
        torch.testing.assert_close(bound, expected["x"] + 0.25 * (expected["z1"] + expected["z2"]), **CLOSE)
        assert kl_weights(twice[0]) == {"kl_weight": 0.25}
        assert (bare(twice[0]), bare(twice[1])) == pair

    @pytest.mark.parametrize(
        ("weight", "sites", "error", "message"),
        [
            (-0.1, None, ValueError, "weight: found -0.1, expected a finite number, 0 or more"),
            (math.inf, None, ValueError, "weight: found inf, expected a finite number, 0 or more"),
            (math.nan, None, ValueError, "weight: found nan, expected a finite number, 0 or more"),
            (torch.ones(2), None, ValueError, r"weight: found a tensor of shape \(2,\), expected one entry"),
            ("1", None, TypeError, "weight: found str, expected a number, a Schedule or a tensor"),
            (None, None, TypeError, "weight: found NoneType, expected a number, a Schedule or a tensor"),
            (1.0, "z", TypeError, r"sites: found the string 'z', expected a sequence of names such as \['z'\]"),
        ],
    )
    def test_wrong_arguments_are_named(self, weight, sites, error, message, pair):
        with pytest.raises(error, match=f"^{message}$"):
            anneal_kl(*pair, weight, sites=sites)

    @pytest.mark.parametrize("name", ["z2", "x", "data"])
    def test_a_site_that_is_no_latent_is_named(self, name, pair, x):
        annealed = anneal_kl(*pair, 0.5, sites=["z", name])
        message = rf"^site '{name}': found in sites, but the program has the latents \['z'\]"
        for run in (lambda: ELBO().bound(*annealed, x), lambda: annealed[0](x)):
            with pytest.raises(pyro_vae.ProgramError, match=message):
                run()


class TestPyrosLosses:
    @pytest.mark.parametrize("weight", [0.0, 0.3, 4.0])
    @pytest.mark.parametrize("kind", KINDS)
    def test_their_value_is_the_annealed_bound(self, kind, weight, pair, x):
        expected = log_ratios(*pair, x)
        kl = analytic_kl(trace_pair(ProgramPair(*pair), x), "z").sum(-1)
        annealed = anneal_kl(*pair, KINDS[kind](weight))
        with pyro.validation_enabled(True):
            sampled, analytic = (seeded(loss.loss, *annealed, x) for loss in (Trace_ELBO(), TraceMeanField_ELBO()))
        assert sampled == pytest.approx(-(expected["x"] + weight * expected["z"]).sum().item(), abs=1e-10)
        assert analytic == pytest.approx(-(expected["x"] - weight * kl[0]).sum().item(), abs=1e-10)

    @pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), ELBO()], ids=lambda v: type(v).__name__)
    @pytest.mark.parametrize("name", ["bernoulli-mlp", "tutorial"])
    def test_svi_trains_the_programs_under_their_own_names(self, loss, name, x):
        def step(*programs):
            pyro.clear_param_store()
            torch.manual_seed(3)
            SVI(*programs, pyro.optim.SGD({"lr": 0.01}), loss=loss).step(x)
            return set(pyro.get_param_store().keys())

        model, guide = PAIRS[name]()
        plain, other = (model, guide), PAIRS[name]()
        for module, copy in zip(plain, other, strict=True):
            copy.load_state_dict(module.state_dict())
        before = weights(*plain)
        names = step(*plain)
        assert step(*anneal_kl(*other, 1.0)) == names
        torch.testing.assert_close(weights(*other), weights(*plain), rtol=1e-10, atol=1e-12)
        unmoved = {n for n, tensor in weights(*other).items() if torch.equal(before[n], tensor)}
        assert unmoved <= {"0.decoder.0.bias"}  # which the batch normalisation after it takes out again
        step(*anneal_kl(*other, 0.2))
        assert not same(weights(*other), weights(*plain))  # the weight matters
        assert step(*other) == names  # and the wrapped programs are what they were
        assert [n for n, _ in other[0].named_parameters()] == [n for n, _ in plain[0].named_parameters()]

    def test_enumerated_latents_stay_as_they_are(self, x):
        means, mixture = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.2, 0.3, 0.5])

        @config_enumerate
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                y = pyro.sample("y", dist.Categorical(mixture))
                pyro.sample("x", dist.Normal(means[y] + z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(0.4 * x, 0.6))

        x = x.flatten(1).sum(1)
        for weight in (0.0, 0.3):
            torch.manual_seed(3)
            loss = TraceEnum_ELBO(max_plate_nesting=1).loss(*anneal_kl(model, guide, weight), x)
            torch.manual_seed(3)
            q = dist.Normal(0.4 * x, 0.6)
            z = q.sample()
            log_p_x = (dist.Normal(means + z[:, None], 1.0).log_prob(x[:, None]) + mixture.log()).logsumexp(-1)
            expected = log_p_x + weight * (dist.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z))
            assert loss == pytest.approx(-expected.sum().item(), abs=1e-10)

    def test_a_latent_that_the_guide_alone_marks_for_enumeration(self, x):
        """As Pyro's M2 does; then the model's half is told."""
        logits = torch.tensor([0.3, -0.2])

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                y = pyro.sample("y", dist.Categorical(torch.tensor([0.4, 0.6])))
                pyro.sample("x", dist.Normal(y + z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(0.4 * x, 0.6))
                pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

        x = x.flatten(1).sum(1)
        annealed = anneal_kl(model, guide, 0.3, sites=["z"])
        sited = seeded(TraceEnum_ELBO(max_plate_nesting=1).loss, *annealed, x)
        whole = seeded(TraceEnum_ELBO(max_plate_nesting=1).loss, *anneal_kl(model, guide, 0.3), x)
        assert whole == pytest.approx(sited, abs=1e-12)  # y has the weight of one in both
        torch.manual_seed(3)
        q = dist.Normal(0.4 * x, 0.6)
        z = q.sample()
        log_q_y, y = logits.log_softmax(-1), torch.arange(2)
        log_p = torch.tensor([0.4, 0.6]).log() + dist.Normal(y + z[:, None], 1.0).log_prob(x[:, None])
        expected = (log_q_y.exp() * (log_p - log_q_y)).sum(-1)
        expected = expected + 0.3 * (dist.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z))
        assert whole == pytest.approx(-expected.sum().item(), abs=1e-10)


def test_what_is_reported_is_not_weighed(pair, x):
    annealed = anneal_kl(*pair, 0.3)
    torch.testing.assert_close(
        seeded(pyro_vae.log_weights, *annealed, x, 5), seeded(pyro_vae.log_weights, *pair, x, 5), rtol=0, atol=0
    )
    scores = [pyro_vae.log_likelihood(*programs, x, 20, seed=0) for programs in (annealed, pair)]
    for column, reference in zip(*scores, strict=True):
        torch.testing.assert_close(column, reference, rtol=0, atol=0, equal_nan=True)  # too few particles for k-hat


def test_the_likelihood_of_annealed_methods_is_computed_in_their_dtype(x):
    """Their parameters are not those of the annealed programs, whose only tensor is the schedule's."""
    program = vae().float()
    model, guide = program.model.forward, program.guide.forward
    annealed = anneal_kl(model, guide, Linear(3))
    assert pyro_vae.log_likelihood(*annealed, x, 5).mean() < 0
