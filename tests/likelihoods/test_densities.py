"""The distributions of counts and Student's: gradients, types and shapes, sums over all counts, and large levels."""

from __future__ import annotations

import mpmath
import pyro.distributions as dist
import pytest
import torch
from mpmath import mpf

from pyro_vae.likelihoods import (
    Binomial,
    Heterogeneous,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    densities,
)
from pyro_vae.likelihoods.levels import GreyLevels
from tests.likelihoods import formulas


def inflated_poisson(gate, rate):
    return densities.ZeroInflatedDistribution(densities.Poisson(rate), gate_logits=gate)


# By name: the distribution of its parameters, its formula, and rows of a value and parameters.
KINDS = {
    "Poisson": (
        densities.Poisson,
        formulas.poisson,
        [(0, 1e-6), (1, 1.5), (899_000, 9e5), (9_990_000, 1e7), (0, 1e7), (1e7, 1.0)],
    ),
    "NegativeBinomial": (
        lambda theta, logits: densities.NegativeBinomial(theta, logits=logits),
        formulas.negative_binomial,
        [(0, 1e-3, -5.0), (3, 1e-3, 20.0), (899_000, 1e3, 6.8), (9_990_000, 1.5, 15.7), (1e7, 1e3, -3.0)],
    ),
    "Binomial": (
        lambda n, logits: densities.Binomial(n, logits=logits),
        formulas.binomial,
        [(0, 16, -15.0), (16, 16, 15.0), (1, 1, 0.0), (2_500_000, 1e7, -1.0986), (1, 1e7, 30.0)],
    ),
    "ZeroInflatedPoisson": (
        inflated_poisson,
        lambda x, gate, rate: formulas.zero_inflated(x, gate, formulas.poisson(x, rate)),
        [(0, 15.0, 1e-6), (0, -15.0, 3.0), (0, 2.0, 1e3), (899_000, -3.0, 9e5), (1, 15.0, 1e-6)],
    ),
    "StudentT": (
        densities.StudentT,
        formulas.student,
        [(0.1, 1e7, 0.3, 0.01), (1e30, 4.0, 0.0, 0.01), (-3.0, 1.001, 5.0, 10.0), (0.5, 30.0, 0.5, 1.0)],
    ),
}


@pytest.mark.parametrize("name", KINDS)
class TestEachKind:
    def test_its_gradients(self, name):
        """Those of the formula, in float32, by mpmath's differences."""
        make, formula, rows = KINDS[name]
        value, *parameters = torch.tensor(rows, dtype=torch.float32).T
        parameters = [parameter.clone().requires_grad_() for parameter in parameters]
        first = 1 if name in ("Binomial", "StudentT") else 0  # trials and degrees of freedom are not learnt
        found = torch.autograd.grad(make(*parameters).log_prob(value).sum(), parameters[first:])
        for index in range(len(rows)):
            x, *point = (mpf(tensor[index].item()) for tensor in (value, *parameters))
            for argument, gradient in enumerate(found, first):
                with mpmath.workdps(50):
                    order = [int(argument == other) for other in range(len(point))]
                    expected = mpmath.diff(lambda *at, x=x: formula(x, *at), tuple(point), tuple(order))
                assert gradient[index].item() == pytest.approx(float(expected), rel=1e-6, abs=1e-37), (index, argument)

    @pytest.mark.parametrize("types", [("float32", "float32"), ("float32", "float64"), ("bfloat16", "bfloat16")])
    def test_types_and_shapes_are_pyros(self, name, types):
        make, _, rows = KINDS[name]
        of_parameters, of_data = (getattr(torch, type_) for type_ in types)
        _, *parameters = torch.tensor(rows[:4]).T
        parameters = [parameter[1:4].clamp(max=4.0).to(of_parameters) for parameter in parameters]
        p, x = make(*parameters), torch.zeros(2, 1, 3, dtype=of_data)  # two data, three entries
        for q in (p, p.expand((5, 1, 1, 3)), p.expand((5, 2, 4, 3)), p.mask(torch.tensor(True))):
            found = q.log_prob(x)
            assert found.shape == torch.broadcast_shapes(q.batch_shape, x.shape)
            assert found.dtype == torch.promote_types(of_parameters, of_data)
            torch.testing.assert_close(found, p.log_prob(x).expand(found.shape), rtol=0, atol=0)
            assert p.to_event(1).log_prob(x).dtype == found.dtype
        if of_parameters == torch.float32:
            assert p.expand((5, 3)).sample().dtype == torch.float32

    def test_what_lies_outside_its_support_is_refused(self, name):
        make, _, rows = KINDS[name]
        _, *parameters = torch.tensor(rows[:3]).T
        p = make(*parameters)
        p._validate_args = True
        with pytest.raises(ValueError, match="within the support"):
            p.log_prob(torch.tensor([1.0, 2.0, float("nan")]))


class TestSums:
    @pytest.mark.parametrize("kind", ["Poisson", "Binomial"])
    def test_the_probabilities_of_large_counts_sum_to_one(self, kind):
        """In float32, whose formula gave 0.83."""
        if kind == "Poisson":
            p, x = densities.Poisson(torch.tensor(9e5)), torch.arange(9e5 - 8_000, 9e5 + 8_000)
        else:
            p, x = (
                densities.Binomial(torch.tensor(1e7), logits=torch.tensor(0.0)),
                torch.arange(4_987_000.0, 5_013_000.0),
            )
        assert p.log_prob(x).double().exp().sum().item() == pytest.approx(1.0, abs=1e-6)

    def test_those_of_a_negative_binomial(self):
        p = densities.NegativeBinomial(torch.tensor(1e3), logits=torch.tensor(5e6 / 1e3).log())
        x = torch.arange(3.8e6, 6.4e6)  # 7 standard deviations
        assert p.log_prob(x).double().exp().sum().item() == pytest.approx(1.0, abs=1e-6)


class TestLevels:
    @pytest.mark.parametrize("top", [255, 65_535, 1_000_003, 10_000_000])
    def test_float32_finds_every_level(self, top):
        levels = torch.arange(0.0, top + 1, max(1, top // 250_000))
        p = GreyLevels(densities.Binomial(torch.tensor(float(top)), logits=torch.tensor(0.3)), top + 1)
        x = levels / top
        assert torch.equal(p.log_prob(x), p.levels.log_prob(levels))
        assert p.support.check(x).all()

    def test_draws_are_levels(self):
        part = Binomial(None, (1000,), 10_000_000)
        p = part.from_output(torch.zeros(1000))
        x = p.sample()
        assert p.support.check(x).all()
        # The levels of the draws have a standard deviation of 1581: a formula off by one would not show in their mean.
        levels = (x.double() * 10_000_000).round()
        torch.testing.assert_close(p.base_dist.levels.log_prob(levels.float()), p.base_dist.log_prob(x), rtol=0, atol=0)


class TestLargestMean:
    @pytest.mark.parametrize("make", [Poisson, NegativeBinomial, ZeroInflatedPoisson, ZeroInflatedNegativeBinomial])
    def test_the_distribution_knows_it(self, make):
        part = make(None, (3,), high=500)
        p = part.from_output(torch.zeros(part.output_shape))
        for q in (p, p.expand((4, 2)), p.base_dist.mask(torch.tensor(True)).expand((4, 3)).to_event(1)):
            while hasattr(q, "base_dist"):
                q = q.base_dist
            assert q.largest_mean == 500.0 and isinstance(q.largest_mean, float)
            assert type(q).__name__ in ("Poisson", "NegativeBinomial")

    def test_by_default_a_million(self):
        part = Heterogeneous(None, [Poisson(None, (2,)), NegativeBinomial(None, (1,))])
        groups = part.from_output(torch.zeros(3)).expand((5,)).groups
        assert [group.base_dist.largest_mean for group in groups] == [1e6, 1e6]
        assert densities.Poisson(torch.tensor(1.0)).largest_mean == float("inf")

    def test_the_support_is_that_of_counts(self):
        p = Poisson(None, (3,)).from_output(torch.zeros(3))
        assert p.base_dist.support is dist.Poisson.support
