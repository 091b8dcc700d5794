"""Scores of how normal a datum is, held against formulas by hand and against models whose log p(x) is known."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vae
from pyro_vae import ProgramError, Scorer, log_likelihood, score
from pyro_vae.compilation import compiled
from pyro_vae.evaluation.code_lengths import code_lengths


@pytest.fixture
def other():
    return pyro_vae.VAE((5,), 2, (4,)).double()


def likelihood(vae, x, num_particles=100):
    return log_likelihood(vae.model, vae.guide, x, num_particles=num_particles, seed=0)


class TestCorrections:
    def test_without_one_it_is_the_likelihood(self, vae, x):
        found, expected = score(vae.model, vae.guide, x, seed=0), likelihood(vae, x)
        assert torch.equal(found.values, expected.values) and torch.equal(found.std_error, expected.std_error)
        assert torch.equal(found.log_likelihood.khat, expected.khat)
        assert found.log_likelihood.bits_per_dim() == expected.bits_per_dim()

    def test_bits_are_per_observed_entry(self, vae, x):
        """Of packed data, as those of the likelihood: neither the mask nor what is missing has a bit."""
        model, guide = pyro_vae.observed_only(vae.model, vae.guide)
        packed = pyro_vae.pack(torch.where(torch.arange(5) < 2, x, torch.nan))
        found = score(model, guide, packed, num_particles=100, seed=0).log_likelihood
        expected = log_likelihood(model, guide, packed, num_particles=100, seed=0)
        assert found.num_dims == expected.num_dims == 2
        assert found.bits_per_dim() == pytest.approx(expected.bits_per_dim(), rel=1e-12)

    def test_the_likelihood_ratio(self, vae, other, x):
        pair = (other.model, other.guide)
        found = score(vae.model, vae.guide, x, correction="likelihood_ratio", background=pair, seed=0)
        one, two = likelihood(vae, x), likelihood(other, x)
        torch.testing.assert_close(found.values, one.values - two.values, rtol=0, atol=0)
        torch.testing.assert_close(found.std_error**2, one.std_error**2 + two.std_error**2)

    def test_the_complexity(self, vae, x):
        found, plain = score(vae.model, vae.guide, x, correction="complexity", seed=0), likelihood(vae, x)
        torch.testing.assert_close(found.values, plain.values + code_lengths(x), rtol=0, atol=0)
        assert torch.equal(found.std_error, plain.std_error)
        from_array = score(vae.model, vae.guide, x.numpy(), correction="complexity", seed=0)
        assert torch.equal(found.values, from_array.values)

    def test_typicality(self, vae, x):
        expected, reference = likelihood(vae, x[:3]), likelihood(vae, x)
        found = score(vae.model, vae.guide, x[:3], correction="typicality", reference=x, seed=0)
        torch.testing.assert_close(found.values, -(expected.values - reference.mean()).abs(), rtol=0, atol=0)
        torch.testing.assert_close(found.std_error**2, expected.std_error**2 + reference.mean_error() ** 2)
        number = score(vae.model, vae.guide, x[:3], correction="typicality", reference=-3, seed=0)
        torch.testing.assert_close(number.values, -(expected.values + 3).abs(), rtol=0, atol=0)
        assert torch.equal(number.std_error, expected.std_error)

    def test_the_densest_datum_is_not_typical_in_many_dimensions(self):
        class Normals(PyroModule):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(0 * z, torch.ones(400)).to_event(1), obs=x)

        class Prior(PyroModule):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))

        draws = torch.randn(200, 400)
        densest = torch.zeros(1, 400)
        pair = Normals(), Prior()
        plain = Scorer(*pair, num_particles=2)
        typical = Scorer(
            *pair, num_particles=2, correction="typicality", reference=-200 * math.log(2 * math.pi * math.e)
        )
        assert plain(densest).values > plain(draws).values.max()
        assert typical(densest).values < typical(draws).values.min()
        torch.testing.assert_close(typical(densest).values, torch.tensor([-200.0]).double(), rtol=1e-5, atol=0)  # D / 2


class TestTheCode:
    def test_the_shortest_of_what_png_filters_is_deflated(self):
        x = torch.randint(0, 256, (6, 3, 9), generator=torch.Generator().manual_seed(2)).float()
        x[0], x[1], x[2] = torch.arange(9.0), torch.arange(3.0)[:, None] * 80, 7.0
        expected = []
        for levels in x.numpy().astype(np.uint8):
            left = np.concatenate((levels[:, :1], levels[:, 1:] - levels[:, :-1]), 1)
            above = np.concatenate((levels[:1], levels[1:] - levels[:-1]), 0)
            lengths = [len(zlib.compress(each.tobytes(), 9)) - 6 for each in (levels, left, above)]  # 6: zlib's frame
            expected.append(8 * math.log(2) * min(lengths))
        torch.testing.assert_close(code_lengths(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)
        assert torch.equal(code_lengths(x[3:] / 255), code_lengths(x[3:]))

    def test_noise_takes_what_it_holds_and_a_vector_is_coded_too(self):
        noise = torch.randint(0, 256, (2, 10_000), generator=torch.Generator().manual_seed(2))
        bits = code_lengths(noise) / math.log(2)
        assert ((bits >= 80_000) & (bits < 80_000 + 200)).all()

    def test_all_data_have_one_scale(self):
        dark = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1])
        bright = torch.full((16,), 200)
        zeros = dark.new_zeros(1)
        pieces = (bytes(each.tolist()) for each in (dark, torch.diff(dark, prepend=zeros) % 256))
        expected = 8 * math.log(2) * min(len(zlib.compress(each, 9)) - 6 for each in pieces)
        assert code_lengths(torch.stack([dark, bright]))[0].item() == pytest.approx(expected, rel=1e-15)
        assert code_lengths(torch.stack([255 * dark, bright]))[0].item() > expected  # as 1 was read before
        with pytest.raises(ValueError, match=r"^x\[0\]: found numbers from 0 to 0.5, expected grey levels to compress"):
            code_lengths(torch.stack([dark / 2, bright]))

    @pytest.mark.parametrize("value", [-0.5, 1.5, 300.0])
    def test_other_numbers_have_no_code(self, value):
        with pytest.raises(ValueError, match=r"^x\[1\]: found numbers from .* to .*, expected grey levels to compress"):
            code_lengths(torch.tensor([[0.0, 1.0], [0.0, value]]))


class TestRepeatedCalls:
    def test_each_call_is_one_of_the_likelihood(self, vae, x):
        scorer = Scorer(vae.model, vae.guide, seed=0)
        for part in (x, x[:1], x[2:3].float().numpy(), x[3:4].bool(), x.repeat(40, 1), (x,)):
            expected = log_likelihood(vae.model, vae.guide, part, num_particles=100, seed=0)
            assert torch.equal(scorer(part).values, expected.values)
        assert not torch.equal(Scorer(vae.model, vae.guide)(x).values, Scorer(vae.model, vae.guide)(x).values)

    def test_the_programs_are_checked_once_and_the_values_each_time(self, vae, x, monkeypatch):
        from pyro_vae.inference.checks import PairCheck

        begun = []
        begin = PairCheck._begin
        monkeypatch.setattr(PairCheck, "_begin", lambda self, x: (begun.append(1), begin(self, x))[1])
        scorer = Scorer(vae.model, vae.guide)
        for datum in x:
            scorer(datum[None])
        assert len(begun) == 1
        with pytest.raises(
            ValueError, match=r"^data: found the value 0.5 at \(0, 2\), outside the support of site 'x'"
        ):
            scorer(torch.tensor([[0.0, 1.0, 0.5, 0.0, 0.0]]))
        with pytest.raises(ValueError, match=r"^data: found nan at index \(0, 0\)"):
            scorer(torch.full((1, 5), math.nan))
        with pytest.raises(ValueError, match=r"^data: found data of shape \(N, 6\), expected \(N, 5\)"):
            scorer(torch.zeros(1, 6))
        assert all(module.training for module in vae.modules())

    def test_what_changes_counts_at_once(self, vae, x):
        scorer = Scorer(vae.model, vae.guide, seed=0)
        scorer(x)
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.mul_(2)
        assert torch.equal(scorer(x).values, likelihood(vae, x).values)

    def test_programs_of_ones_own(self, x):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(5, dtype=x.dtype), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x - 0.5, 0.9).to_event(1))

        scorer = Scorer(model, guide, seed=0)
        for part in (x, x[:2], x[:1]):
            expected = log_likelihood(model, guide, part, num_particles=100, seed=0)
            assert torch.equal(scorer(part).values, expected.values)
        with pytest.raises(ProgramError, match="found no observed site"):
            Scorer(guide, guide)(x)

    def test_compiled_it_is_the_same_function(self, vae, x, monkeypatch):
        monkeypatch.setattr(compiled, "inductor", lambda graph, inputs: graph)  # traced, which is what can go wrong
        scorer = Scorer(vae.model, vae.guide, num_particles=30, compile=True, seed=0)
        for datum in x[:3]:
            expected = likelihood(vae, datum[None], 30)
            torch.testing.assert_close(scorer(datum[None]).values, expected.values, rtol=1e-12, atol=1e-12)
        assert scorer._likelihood._compiled.num_traces == 1


REFUSED = {
    "no background": (
        {"correction": "likelihood_ratio"},
        ValueError,
        "background: found None with correction='like",
    ),
    "no reference": (
        {"correction": "typicality"},
        ValueError,
        "reference: found None with correction='typic",
    ),
    "a reference too many": (
        {"reference": 1.0},
        ValueError,
        "correction: found None with reference given, exp",
    ),
    "a background too many": (
        {"background": (len, len), "correction": "complexity"},
        ValueError,
        "correction: found 'complexity' with background given, expected 'likelihood_ratio'",
    ),
    "half a background": (
        {"background": [len], "correction": "likelihood_ratio"},
        ValueError,
        "background: found 1 entries, expected a pair",
    ),
    "a mean that is none": (
        {"reference": math.nan, "correction": "typicality"},
        ValueError,
        "reference: found nan, expected a finite number, the mean of log p",
    ),
    "an infinite mean": (
        {"reference": np.float32(-math.inf), "correction": "typicality"},
        ValueError,
        "reference: found -inf, expected a finite number, the mean of log p",
    ),
    "an unknown one": (
        {"correction": "ratio"},
        ValueError,
        "correction: found 'ratio', expected one of 'likeli",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(vae, case):
    arguments, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        Scorer(vae.model, vae.guide, **arguments)


def test_complexity_is_that_of_an_array(vae, x):
    with pytest.raises(TypeError, match="^data: found tuple with correction='complexity', expected a tensor or"):
        score(vae.model, vae.guide, (x,), correction="complexity")
