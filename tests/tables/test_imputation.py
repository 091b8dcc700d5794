"""Imputed and drawn frames, against closed forms and enumeration."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vae
from pyro_vae import MLP, Table
from pyro_vae.tables.indicators import IndicatorColumns

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.usefixtures("double")

NAN = math.nan


class Alternating(dist.Bernoulli):
    """Half a Bernoulli: its K draws are 0, 1, 0, 1, ..., so that K = 2 of them sum over both values exactly."""

    def sample(self, sample_shape=()):
        shape = self._extended_shape(torch.Size(sample_shape))
        first = torch.arange(shape[0]) % 2 if len(shape) == 3 else torch.zeros(shape[0])
        return first.to(self.logits).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


class TwoValues(PyroModule):
    """A table whose latent is 0 or 1: p(z = 1) = 0.3, p(x|z) by the table's likelihood."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((1,), 0.3)).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x)


class Both(PyroModule):
    """A guide that draws both values in turn."""

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", Alternating(x.new_full((1,), 0.5)).to_event(1))


@pytest.fixture
def mixed():
    """A frame without holes, its table, a decoder, and the frame with holes."""
    df = pd.DataFrame(
        {
            "income": [52_000.0, 31_000.0, 44_500.0, 78_500.0],
            "city": ["Rome", "Oslo", "Bern", "Rome"],
            "team": pd.Categorical([30, 10, 20, 10], [30, 20, 10], ordered=True),
            "smoker": [True, False, False, True],
            "events": [0, 3, 1, 25],
        },
        index=["a", "b", "c", "d"],
    )
    table = Table.from_frame(df, {"events": "count"})
    model = TwoValues(table.likelihood(MLP(1, (table.likelihood(None).num_outputs,), ())))
    holes = df.astype({"smoker": "boolean", "events": "Int64"})
    holes.loc["b", ["income", "city"]] = None, None
    holes.loc["c", ["team", "smoker", "events"]] = None
    holes.loc["d"] = [NAN, None, NAN, pd.NA, pd.NA]
    return df, table, model, holes


class TestEnumeration:
    def expected(self, table, model, holes):
        """Return p(z = 1|x_o), ``(N,)``, and the columns given each z."""
        x, mask = table.pack(holes).unbind(1)
        columns = [model.likelihood(torch.tensor([[value]])).expand((len(x),)) for value in (0.0, 1.0)]
        log_p = torch.stack([p.masked(mask != 0).log_prob(x) for p in columns]) + torch.tensor([[0.7], [0.3]]).log()
        return log_p.softmax(0), columns

    def test_probabilities_means_and_errors(self, mixed):
        _, table, model, holes = mixed
        found = table.imputation(model, Both(), holes, num_particles=2, chunk_size=2)
        share, columns = self.expected(table, model, holes)
        kinds = ["income", "city", "team", "smoker", "events"]
        missing = {name: holes[name].isna().to_numpy(copy=True) for name in kinds}
        for name, place in (("city", 1), ("team", 2)):
            each = torch.stack([_probs(p, place) for p in columns])  # (2, N, C)
            expected = torch.einsum("zn,znc->nc", share, each)[missing[name]]
            shown = found.probabilities[name][missing[name]]
            np.testing.assert_allclose(shown.to_numpy(), expected.detach().numpy(), rtol=1e-10)
            assert shown.columns.tolist() == list(table.columns[place].categories)
            assert found.frame[name][missing[name]].tolist() == shown.idxmax(axis=1).tolist()
        yes = torch.stack([_probs(p, 3) for p in columns])
        np.testing.assert_allclose(
            found.probabilities["smoker"][True][missing["smoker"]],
            (share * yes).sum(0).detach()[missing["smoker"]],
            rtol=1e-10,
        )
        income, events = table.columns[0], table.columns[4]
        for column, place, scale in ((income, 0, income.scale), (events, 4, 1.0)):
            each = torch.stack([p.mean[:, place] for p in columns])
            mean = (share * each).sum(0)
            # two weights w: se² = Σ w² (f − m)²
            error = scale * (share**2 * (each - mean) ** 2).sum(0).sqrt()
            where = missing[column.name]
            in_units = scale * mean + (column.mean if place == 0 else 0.0)
            np.testing.assert_allclose(found.mean[column.name][where], in_units.detach()[where], rtol=1e-10)
            np.testing.assert_allclose(found.std_error[column.name][where], error.detach()[where], rtol=1e-6)
            assert (found.std_error[column.name][~where] == 0).all()
        assert found.frame["events"].tolist()[2:] == found.mean["events"].round().tolist()[2:]
        assert found.caveat() == "" or "weights" in found.caveat()

    def test_what_was_observed_stays_and_types_are_the_tables(self, mixed):
        df, table, model, holes = mixed
        torch.set_default_dtype(torch.float32)
        found = table.imputation(model.float(), Both(), holes, num_particles=2, num_samples=3, seed=0)
        for frame in (found.frame, *found.samples):
            assert frame.dtypes.equals(df.dtypes) and frame.index.equals(df.index) and not frame.isna().any(axis=None)
            for name in df:
                there = holes[name].notna()
                assert frame[name][there].tolist() == df[name][there].tolist()
        assert found.mean["income"]["a"] == 52_000.0  # to the last bit, in float32 too
        assert found.probabilities["city"].loc["a"].tolist() == [0, 0, 1]
        assert found.probabilities["smoker"].loc["a"].tolist() == [0, 1]

    def test_draws_have_the_probabilities(self, mixed):
        _, table, model, holes = mixed
        rows, num_samples = 500, 4
        empty = holes.loc[["d"] * rows]
        found = table.imputation(
            model, Both(), empty, num_particles=20, num_samples=num_samples, batch_size=rows, seed=0
        )
        p = found.probabilities["city"].iloc[0]
        for category in p.index:
            share = np.mean([frame["city"] == category for frame in found.samples])
            # The four draws of a row come from 20 of its own, which adds a quarter to the variance: twice is allowed.
            error = 5 * math.sqrt(2 * p[category] * (1 - p[category]) / (rows * num_samples))
            assert abs(share - p[category]) < error  # a false alarm in half a million seeds

    def test_both_forms_of_the_pair(self, mixed):
        _, table, model, holes = mixed
        frames = [
            table.impute(*pair, holes, num_particles=20, seed=0)
            for pair in ((model, Both()), pyro_vae.observed_only(model, Both()))
        ]
        pd.testing.assert_frame_equal(*frames)

    def test_a_model_of_another_likelihood(self, mixed):
        _, table, _, holes = mixed
        vae = pyro_vae.VAE((5,), 2, (8,), likelihood="gaussian")
        with pytest.raises(
            pyro_vae.ProgramError, match=r"^site 'x': found Independent of event shape \(5,\), expected"
        ):
            table.impute(vae.model, vae.guide, holes)


def _probs(p, place):
    """Return the probabilities of a column: of its categories, or of True."""
    first = 1 if place == 2 else place  # city and team are neighbours, and share a part
    return p.group_of(place).base_dist.probs.select(len(p.batch_shape), place - first)


class TestLinearGaussian:
    def test_means_in_units_are_the_closed_form(self):
        """x = w z + noise in standardised units; the guide is p(z|x_o), so weights are equal and K means suffice."""
        rng = np.random.default_rng(0)
        z = rng.normal(size=50)
        df = pd.DataFrame({"cm": 170 + 9 * z + rng.normal(size=50), "kg": 70 + 11 * z + 4 * rng.normal(size=50)})
        table = Table.from_frame(df)
        w, sigma = torch.tensor([0.9, -0.6]), torch.tensor([0.4, 0.7])
        decoder = MLP(1, (2,), ())
        likelihood = table.likelihood(decoder)
        with torch.no_grad():
            decoder.output.weight.copy_(w[:, None])
            likelihood.parts[0].raw_scale.copy_(pyro_vae.nn.scales.inverse_bounded_scale(sigma, 1e-2, 1e1))
        vae = pyro_vae.VAE(
            prior=pyro_vae.StandardNormal(1), likelihood=likelihood, posterior=pyro_vae.DiagonalNormal(MLP(2, (2, 1)))
        )
        holes = df.iloc[:3].copy()
        holes["kg"] = NAN  # what is observed is cm: p(z|x) = N(w₁ x / (w₁² + σ₁²), σ₁² / (w₁² + σ₁²))
        gain, variance = w[0] / (w[0] ** 2 + sigma[0] ** 2), sigma[0] ** 2 / (w[0] ** 2 + sigma[0] ** 2)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(gain * x[:, :1], variance.sqrt()).to_event(1))

        num_particles = 4000
        found = table.imputation(vae.model, guide, holes, num_particles, seed=0)
        cm, kg = table.columns
        x = torch.tensor((holes["cm"].to_numpy() - cm.mean) / cm.scale)
        expected = kg.mean + kg.scale * (w[1] * gain * x).numpy()
        error = kg.scale * abs(w[1].item()) * math.sqrt(variance / num_particles)
        assert (abs(found.mean["kg"] - expected) < 5 * error).all()  # a false alarm in half a million seeds
        np.testing.assert_allclose(found.std_error["kg"], error, rtol=0.1)  # 1.1 % expected
        assert found.probabilities == {} and (found.frame["kg"] == found.mean["kg"]).all()


class TestSamples:
    def test_frames_of_a_known_distribution(self, mixed):
        """A decoder that ignores z: each column's distribution is known."""
        df, table, _, _ = mixed
        vae = table.vae(latent_dim=2, hidden_dims=())
        with torch.no_grad():
            vae.likelihood.network.output.weight.zero_()
            vae.likelihood.network.output.bias.copy_(torch.linspace(-1, 1, 9))
        before = torch.get_rng_state()
        n = 4000
        found = table.sample(vae, n, seed=0)
        assert torch.equal(torch.get_rng_state(), before) and found.dtypes.equals(df.dtypes) and len(found) == n
        p = vae.likelihood(torch.zeros(2))
        for place, name in ((1, "city"), (2, "team")):
            for category, share in zip(table.columns[place].categories, _probs(p, place).tolist(), strict=True):
                assert abs((found[name] == category).mean() - share) < 5 * math.sqrt(share * (1 - share) / n)
        yes = _probs(p, 3).item()
        assert abs(found["smoker"].mean() - yes) < 5 * math.sqrt(yes * (1 - yes) / n)
        income = table.columns[0]
        loc, scale = income.mean + income.scale * p.mean[0].item(), income.scale
        assert abs(found["income"].mean() - loc) < 5 * scale / math.sqrt(n)
        assert abs(found["income"].std() / scale - 1) < 5 / math.sqrt(2 * n)
        assert abs(found["events"].mean() - p.mean[4].item()) < 5 * found["events"].std() / math.sqrt(n)
        with pytest.raises(ValueError, match="^num_samples: found 0, expected a positive integer"):
            table.sample(vae, 0)


class TestIndicators:
    def test_they_have_the_density_of_the_codes(self, mixed):
        _, table, model, holes = mixed
        p = model.likelihood(torch.randn(4, 1))
        numbers = (0, 3, 3, 0, 0)
        indicators = IndicatorColumns(p, numbers)
        draw = indicators.sample((7,))
        codes = torch.cat([draw[..., :1], *(draw[..., i : i + 3].argmax(-1, True) for i in (1, 4)), draw[..., 7:]], -1)
        assert draw.shape == (7, 4, 9) and (draw[..., 1:4].sum(-1) == 1).all()
        torch.testing.assert_close(indicators.log_prob(draw), p.log_prob(codes.double()), rtol=1e-12, atol=0)
        observed = table.pack(holes)[:, 1] != 0
        mask = observed.repeat_interleave(torch.tensor([1, 3, 3, 1, 1]), -1)
        torch.testing.assert_close(
            indicators.masked(mask).log_prob(draw), p.masked(observed).log_prob(codes.double()), rtol=1e-12, atol=0
        )
