"""An evaluation in one call: exact on linear Gaussian models, complete or explained on all others."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae import ProgramError, evaluate
from pyro_vae.data.loading import Splits
from pyro_vae.data.split import Split
from pyro_vae.evaluation import evaluation_parts, gaps
from tests.support.linear_gaussian import PPCA
from tests.support.programs import HierarchyGuide, HierarchyModel, bits, same, vae, weights

QUICK = {"num_particles": 100, "num_refined": 0, "annealed": False, "progress": False}
BOUNDS = ["elbo", "iwae", "log_p"]
GAPS = [f"{kind}_gap_{family}" for family in ("own", "flow") for kind in ("amortisation", "approximation")]
TRAINING = ["train_test_gap", "train_test_gap_decoder", "train_test_gap_encoder"]


@pytest.fixture(scope="module")
def exact():
    return PPCA.of(angle=0.7)


@pytest.fixture(scope="module")
def of_linear_vae(exact):
    splits = Splits(Split(exact.x[:150]), Split(exact.x[150:200]), Split(exact.x[200:]), "linear")
    pair = exact.vae.model, exact.vae.guide
    return evaluate(*pair, splits, num_particles=2000, num_data=150, num_refined=40, progress=False)


class TestLinearVAE:
    """Probabilistic PCA, of which every figure has a closed form."""

    @pytest.fixture
    def found(self, of_linear_vae):
        return of_linear_vae

    def test_its_rows(self, found):
        assert list(found.figures) == [*BOUNDS, "kl_z", *GAPS, *TRAINING] == list(found.labels)
        assert found.notes == () and found.share_heavy() == 0 and len(found.annealed_data) == 0

    def test_bounds(self, exact, found):
        elbo, log_p = exact.exact_elbo()[200:350], exact.log_p()[200:350]
        for name, values in (("elbo", elbo), ("log_p", log_p)):
            figure = found[name]
            assert abs(figure.mean - values.mean()) < 5 * figure.monte_carlo_error < 0.1
            assert figure.data_error == pytest.approx(values.std().item() / 150**0.5, rel=0.1)
            assert figure.num_data == 150
        assert (found.log_likelihood.values - log_p).abs().max() < 5 * found.log_likelihood.std_error.max()
        assert found["elbo"].mean < found["iwae"].mean < found["log_p"].mean + 5 * found["iwae"].monte_carlo_error

    def test_the_layer(self, exact, found):
        q, p = exact.vae.posterior(exact.x[200:350]), exact.vae.prior()
        kl = torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(-1).mean()
        assert abs(found["kl_z"].mean - kl) < 5 * found["kl_z"].monte_carlo_error < 0.2

    def test_gaps(self, exact, found):
        """The guide is the best diagonal Gaussian, so all that is lost is of the family."""
        loss = 0.5 * (exact.precision.diagonal().log().sum() - exact.precision.logdet()).item()
        assert 0.05 < loss < 0.2
        assert abs(found["amortisation_gap_own"].mean) < 5 * found["amortisation_gap_own"].monte_carlo_error
        own, flow = found["approximation_gap_own"], found["approximation_gap_flow"]
        assert abs(own.mean - loss) < 5 * own.monte_carlo_error < 0.05
        assert abs(flow.mean) < 5 * flow.monte_carlo_error + 0.01  # what the last steps leave
        assert found["amortisation_gap_flow"].mean > 0.7 * loss
        assert own.num_data == flow.num_data == 40

    def test_training_data(self, exact, found):
        elbo, log_p = exact.exact_elbo(), exact.log_p()
        decoder = log_p[:150].mean() - log_p[200:350].mean()
        total = elbo[:150].mean() - elbo[200:350].mean()
        for name, expected in zip(TRAINING, (total, decoder, total - decoder), strict=True):
            assert abs(found[name].mean - expected) < 5 * found[name].monte_carlo_error < 0.2
        spread = math.hypot(log_p[:150].std() / 150**0.5, log_p[200:350].std() / 150**0.5)
        assert found["train_test_gap_decoder"].data_error == pytest.approx(spread, rel=0.05)


@pytest.fixture
def few_temperatures(monkeypatch):
    monkeypatch.setattr(evaluation_parts, "_NUM_TEMPERATURES", 200)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(gaps, "_STEPS", ((5, 0.01),))


class TestPrograms:
    def test_a_discrete_latent_is_named_where_a_part_cannot_take_it(self, double, few_temperatures):
        """A mixture of two: y is one or the other, x ~ N(±3, 1); log p(x) is a sum of two terms."""

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(x.new_full((), 0.5)))
                pyro.sample("x", dist.Normal(6 * y - 3, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("y", dist.Bernoulli(torch.sigmoid(x)))

        x = torch.linspace(-4, 4, 10)
        found = evaluate(model, guide, x, num_particles=500, annealed=True, progress=False)
        assert [note.partition(".")[0] for note in found.notes] == [
            "Left out: annealed importance sampling",
            "Left out: the gaps of the posteriors",
        ]
        assert all("site 'y': found" in note for note in found.notes)
        log_p = torch.stack([dist.Normal(m, 1.0).log_prob(x) for m in (-3.0, 3.0)]).logsumexp(0) - math.log(2)
        assert ((found.log_likelihood.values - log_p).abs() < 5 * found.log_likelihood.std_error + 1e-9).all()
        assert list(found.figures) == [*BOUNDS, "kl_y"] and len(found.annealed_data) == 0

    def test_several_layers_and_a_programs_own_names(self, few_steps):
        found = evaluate(HierarchyModel(), HierarchyGuide(), bits(12), **QUICK | {"num_refined": 5})
        assert set(GAPS) | {"kl_z1", "kl_z2"} < found.figures.keys() and "KL of z2" in str(found)
        assert found["elbo"].mean < found["log_p"].mean
        best = found["approximation_gap_flow"].mean + found["amortisation_gap_flow"].mean
        own = found["approximation_gap_own"].mean + found["amortisation_gap_own"].mean
        assert best == pytest.approx(own, abs=1e-9)  # both are log p(x) less the guide's bound

    def test_annealing_counts_nowhere(self, few_steps):
        program = vae()
        options = QUICK | {"num_refined": 3}
        annealed = pyro_vae.anneal_kl(program.model, program.guide, 0.3)
        found, expected = (evaluate(*pair, bits(6), **options) for pair in (annealed, (program.model, program.guide)))
        assert found.as_dict() == expected.as_dict()

    def test_several_arguments_with_a_mask(self, double, few_steps):
        """The data of which the mask says no have no likelihood: log p = 0."""

        def model(x, seen):
            with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=seen):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x, seen):
            with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=seen):
                pyro.sample("z", dist.Normal(x / 2, 0.6).to_event(1))

        x, seen = torch.randn(8, 2), torch.arange(8) % 2 == 0
        found = evaluate(model, guide, (x, seen), num_particles=1000, num_refined=4, annealed=False, progress=False)
        expected = torch.where(seen, dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1), 0.0)
        assert ((found.log_likelihood.values - expected).abs() < 5 * found.log_likelihood.std_error + 1e-9).all()
        assert list(found.figures) == [*BOUNDS, "kl_z", *GAPS] and found.notes == ()

    def test_latents_of_all_data_are_refused_at_once(self):
        def model(x):
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

        def guide(x):
            pyro.sample("w", dist.Normal(x.mean(), 1.0))

        with pytest.raises(ProgramError, match="at_global_means"):
            evaluate(model, guide, torch.randn(5), progress=False)


class TestParts:
    def test_what_fails_is_left_out_in_a_sentence(self, monkeypatch):
        def fails(*_):
            raise RuntimeError("no memory")

        program = vae()
        monkeypatch.setattr(evaluation_parts, "gaps_of", fails)
        found = evaluate(program.model, program.guide, bits(6), **QUICK | {"num_refined": 3})
        assert found.notes == ("Left out: the gaps of the posteriors. no memory",)
        assert list(found.figures) == [*BOUNDS, "kl_z"]

    def test_ctrl_c_leaves_out_what_comes_after(self, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        program, data = vae(), pyro_vae.data.load(bits(30))
        monkeypatch.setattr(evaluation_parts, "gaps_of", interrupted)
        found = evaluate(program.model, program.guide, data, **QUICK | {"num_refined": 3})
        assert found.notes == (
            "Left out: the gaps of the posteriors and what comes after, since the run was interrupted",
        )
        assert list(found.figures) == [*BOUNDS, "kl_z"]
        monkeypatch.setattr(evaluation_parts, "log_likelihood", interrupted)
        with pytest.raises(KeyboardInterrupt):  # there is nothing to tell yet
            evaluate(program.model, program.guide, data, **QUICK)

    def test_nothing_is_moved(self, few_steps):
        program = vae()
        before, generator = weights(program), torch.get_rng_state()
        first, second = (
            evaluate(program.model, program.guide, bits(6), **QUICK | {"num_refined": 3}) for _ in range(2)
        )
        assert first.as_dict() == second.as_dict()
        assert same(weights(program), before) and torch.equal(torch.get_rng_state(), generator) and program.training
        assert list(pyro.get_param_store().keys()) == []

    def test_training_data_are_taken_at_even_distances(self):
        program, data = vae(), bits(30)
        splits = Splits(Split(data[:20]), Split(data[20:]), Split(data[20:]), "bits")
        found = evaluate(program.model, program.guide, splits, **QUICK | {"num_data": 5})
        options = {"num_particles": 100, "seed": 0}
        train, test = (
            pyro_vae.log_likelihood(program.model, program.guide, x, **options) for x in (data[:20:4], data[20:25])
        )
        assert found["train_test_gap_decoder"].mean == pytest.approx(train.mean() - test.mean(), abs=1e-12)

    def test_its_likelihood_is_that_of_the_function(self):
        program = vae()
        found = evaluate(program.model, program.guide, bits(6), **QUICK)
        score = pyro_vae.log_likelihood(program.model, program.guide, bits(6), 100, seed=0)
        assert torch.equal(found.log_likelihood.values, score.values)
        assert found.log_likelihood.bits_per_dim() == score.bits_per_dim()
        chunks = evaluate(program.model, program.guide, bits(6), chunk_size=7, **QUICK)
        score = pyro_vae.log_likelihood(program.model, program.guide, bits(6), 100, chunk_size=7, seed=0)
        assert torch.equal(chunks.log_likelihood.values, score.values)
        assert not torch.equal(chunks.log_likelihood.values, found.log_likelihood.values)  # other draws


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_particles": 0}, ValueError, "^num_particles: found 0, expected a positive integer"),
        ({"num_iwae_particles": 1}, ValueError, "^num_iwae_particles: found 1, expected an integer of 2 or more"),
        ({"num_data": 1}, ValueError, "^num_data: found 1, expected an integer of 2 or more"),
        ({"num_refined": -1}, ValueError, "^num_refined: found -1, expected an integer, 0 or more"),
        ({"annealed": "yes"}, ValueError, "^annealed: found 'yes', expected 'auto' or True or False"),
        ({"num_annealed": 0}, ValueError, "^num_annealed: found 0, expected a positive integer"),
        ({"data": bits(1)}, ValueError, "^data: found 1 datum, expected 2 or more$"),
        ({"data": [1.0]}, TypeError, "^data: found list, expected a tensor, a NumPy array"),
        ({"data": bits(3) / 2}, ValueError, "^data: found the value 0.5 at .*, outside the support of site 'x'"),
    ],
)
def test_wrong_arguments(options, error, message):
    program = vae()
    with pytest.raises(error, match=message):
        evaluate(program.model, program.guide, options.pop("data", bits(5)), progress=False, **options)
