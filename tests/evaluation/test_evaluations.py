"""What an evaluation shows: marks where weights are heavy, a table, a file, a web page's table."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae import compare, evaluate
from pyro_vae.evaluation import evaluation_parts

QUICK = {"num_particles": 100, "num_refined": 0, "annealed": False, "progress": False}


@pytest.fixture
def few_temperatures(monkeypatch):
    monkeypatch.setattr(evaluation_parts, "_NUM_TEMPERATURES", 200)


class TestHeavyWeights:
    """z ~ N(0, 1), x ~ N(z, 1): a guide that is exact but, for positive x, has a twentieth of the variance.

    Pareto k is 1 - 1/20 there and 0 elsewhere (see :mod:`tests.evaluation.test_streaming`).
    """

    x = torch.tensor([-1.0, 0.5, -0.3, 1.5, -2.0, 2.5], dtype=torch.float64)[:, None]
    heavy = (1, 3, 5)

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            variance = torch.where(x > 0, 0.5 / 20, 0.5)
            pyro.sample("z", dist.Normal(x / 2, variance.sqrt()).to_event(1))

    def log_p(self):
        return dist.Normal(0.0, 2**0.5).log_prob(self.x[:, 0])

    def found(self, **options):
        return evaluate(self.model, self.guide, self.x, num_particles=20_000, num_refined=0, progress=False, **options)

    def test_annealed_importance_sampling_takes_exactly_these(self, double, few_temperatures):
        found = self.found()
        assert sorted(found.annealed_data.tolist()) == list(self.heavy)
        assert (found.importance.khat[found.annealed_data].diff() <= 0).all()
        combined, alone = found.log_likelihood, found.importance
        light = [0, 2, 4]
        assert torch.equal(combined.values[light], alone.values[light])
        torch.testing.assert_close(combined.values[light], self.log_p()[light], rtol=1e-10, atol=1e-10)
        assert ((combined.values - self.log_p()).abs() < 5 * combined.std_error + 1e-9)[list(self.heavy)].all()
        assert not (combined.values == alone.values)[list(self.heavy)].any()
        rows = ["importance", "importance_chosen", "annealed_chosen", "log_p"]
        assert list(found.figures) == ["elbo", "iwae", *rows, "kl_z"]
        assert [found[name].num_heavy for name in rows] == [3, 3, 0, 0]
        assert found["annealed_chosen"].mean == pytest.approx(combined.values[list(self.heavy)].mean().item())
        assert "gave log p(x) of 3 data, 3 of the 3 with k̂ > 0.7; importance" in found.notes[0]
        assert found.caveat() == "" and "k̂ > 0.7 for 3 of 6 data (50.0 %)" in str(found)

    def test_as_many_as_are_allowed(self, double, few_temperatures):
        found = self.found(num_annealed=2)
        assert found.annealed_data.tolist() == found.importance.khat.argsort(descending=True)[:2].tolist()
        assert found["log_p"].num_heavy == 1 and found.caveat().startswith("† 1 of 6 data have a Pareto k̂ above 0.7")

    def test_the_first_ones_whatever_their_weights(self, double, few_temperatures):
        found = self.found(annealed=True, num_annealed=2)
        assert found.annealed_data.tolist() == [0, 1]
        assert "of 2 data, 1 of the 3 with k̂ > 0.7" in found.notes[0]

    def test_too_few_temperatures_are_named(self, double, few_temperatures, monkeypatch):
        def of_two_chains(*args, **options):
            score = pyro_vae.ais(*args, **options)
            return score.marked(score.ess > 0)

        monkeypatch.setattr(evaluation_parts, "ais", of_two_chains)
        found = self.found()
        assert found["annealed_chosen"].num_heavy == found["log_p"].num_heavy == 3
        assert found.notes[1] == (
            "Of AIS, the effective sample size is below 3.2 of 16 chains for 100 % of the data: too few temperatures "
            "there; the estimate is too low, its ± too small"
        )

    def test_without_it_the_error_is_marked(self, double):
        found = self.found(annealed=False)
        assert torch.equal(found.log_likelihood.values, found.importance.values) and found.notes == ()
        row = next(line for line in str(found).splitlines() if line.startswith("log p(x)"))
        assert "†" in row and str(found).splitlines()[-1] == found.caveat()
        assert found.caveat() == (
            "† 3 of 6 data have a Pareto k̂ above 0.7, or too low an ESS under AIS: the estimate is too low and its "
            "Monte Carlo ± too small"
        )
        comparison = compare(found, pyro_vae.log_likelihood(self.model, self.guide, self.x, 20_000, seed=1))
        assert comparison.caveats[0] == f"The first: {found.caveat()}"
        assert torch.equal(compare(found, found.log_likelihood).differences, torch.zeros(6))

    def test_gaps_take_log_p_from_the_lighter_weights_of_the_refined_posteriors(self, double):
        """The guide's family holds the posterior: refined, its weights are equal, and no gap of the family is left."""
        found = evaluate(self.model, self.guide, self.x, num_particles=20_000, annealed=False, progress=False)
        loss = 0.5 * (math.log(20) + 1 / 20 - 1) / 2  # of the narrow half, KL(q ‖ posterior)
        amortisation = found["amortisation_gap_own"]
        assert abs(amortisation.mean - loss) < 5 * amortisation.monte_carlo_error < 0.2
        for family in ("own", "flow"):
            gap = found[f"approximation_gap_{family}"]
            assert abs(gap.mean) < 5 * gap.monte_carlo_error + 0.001 < 0.01 and gap.num_heavy == 0
        assert found["log_p"].num_heavy == 3

    def test_few_particles_do_not_tell(self, double):
        found = evaluate(self.model, self.guide, self.x, num_particles=20, num_refined=0, progress=False)
        assert math.isnan(found.share_heavy()) and len(found.annealed_data) == 0
        assert "k̂ is not known: it takes more than 20 particles" in str(found)
        assert found.as_dict()["khat_above_0.7"] is None

    def test_data_without_a_khat_are_counted(self, double):
        found = self.found(annealed=False)
        columns = found.importance._asdict()
        columns["khat"] = columns["khat"].index_fill(0, torch.tensor([1]), math.nan)
        importance = pyro_vae.LogLikelihood(**columns)
        importance.num_particles = found.importance.num_particles
        sentences = replace(found, importance=importance).sentences()
        assert sentences[0] == "k̂ is not known for 1 of 6 data"


class TestForms:
    @pytest.fixture
    def found(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("<b>z & co</b>", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("<b>z & co</b>", dist.Normal(x / 2, 0.7).to_event(1))

        return evaluate(model, guide, torch.randn(5, 4), **QUICK | {"num_particles": 1})

    def test_the_table_is_aligned(self, found):
        lines = str(found).splitlines()
        end = lines.index("")
        assert lines[0].split("  ")[-1].strip() == "data" and len({len(line) for line in lines[:end]}) == 1
        assert [line.split("  ")[0] for line in lines[1:end]][:2] == ["ELBO", "IWAE bound, K = 50"]

    def test_html_is_escaped(self, found):
        text = found._repr_html_()
        assert "<b>" not in text and "KL of &lt;b&gt;z &amp; co&lt;/b&gt;" in text
        assert text.count("<tr>") == 1 + len(found.figures)

    def test_a_file_of_strict_json(self, found, tmp_path):
        found.save(tmp_path / "new" / "evaluation.json")
        text = (tmp_path / "new" / "evaluation.json").read_text(encoding="utf-8")
        read = json.loads(text, parse_constant=lambda name: pytest.fail(f"found {name}"))
        assert read == found.as_dict() and list(read) == ["figures", "khat_above_0.7", "annealed_data", "notes"]
        assert read["figures"]["log_p"]["monte_carlo_error"] is None  # one particle tells none
        assert read["figures"]["elbo"]["mean"] == found["elbo"].mean
        with pytest.raises(TypeError, match="^path: found 3, expected a path"):
            found.save(3)


def test_the_bias_of_the_logarithm_is_marked_in_the_table():
    """Of 10,000 data whose errors are 0.07: se²/2 = 0.00245 is over half of 0.0007."""
    vae = pyro_vae.VAE((4,), 2, (3,))
    found = evaluate(vae.model, vae.guide, torch.zeros(3, 4), seed=0, **QUICK)
    columns = torch.full((10_000,), 0.07), torch.ones(10_000), torch.full((10_000,), 0.1)
    marked = replace(found, log_likelihood=pyro_vae.LogLikelihood(torch.full((10_000,), -3.0), *columns))
    assert not found.caveat() and "†" not in str(found)
    assert marked.caveat().startswith("† log p(x) of a datum is low by about se²/2, 0.0025 nats")
    (row,) = [line for line in str(marked).splitlines() if "†" in line and line.startswith("log p(x)")]
    assert row.count("†") == 1 and marked.caveat() in marked.sentences()
