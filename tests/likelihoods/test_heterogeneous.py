"""Tables of mixed columns: each group by its own likelihood, on its share of one output."""

from __future__ import annotations

import pytest
import torch

from pyro_vae import MLP
from pyro_vae.likelihoods import Bernoulli, Categorical, Gaussian, Heterogeneous, Nominal, Poisson
from tests.support.every_likelihood import MAKERS

pytestmark = pytest.mark.usefixtures("double")


def table():
    return Heterogeneous(
        None, [Gaussian(None, (2,)), Poisson(None, (1,)), Nominal(None, (2,), 3), Gaussian(None, (1,), scale="shared")]
    )


class TestSplitting:
    def test_each_part_has_its_share_of_the_output_and_its_columns(self):
        part = table()
        assert part.output_shape == (2 * 2 + 1 + 3 * 2 + 1,) and part.data_shape == (6,)
        output = torch.randn(7, 12)
        x = torch.stack([*torch.randn(2, 7), torch.ones(7), torch.zeros(7), 2 * torch.ones(7), torch.randn(7)], -1)
        shares = [output[:, :4].reshape(7, 2, 2), output[:, 4:5], output[:, 5:11].reshape(7, 3, 2), output[:, 11:]]
        columns = [x[:, :2], x[:, 2:3], x[:, 3:5], x[:, 5:]]
        groups = [piece.from_output(share) for piece, share in zip(part.parts, shares, strict=True)]
        p = part.from_output(output)
        expected = sum(group.log_prob(column) for group, column in zip(groups, columns, strict=True))
        torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(p.mean, torch.cat([group.mean for group in groups], -1))

    def test_draws_are_those_of_the_parts(self):
        part = table()
        p = part.from_output(torch.randn(12))
        draws = p.sample((4_000,))
        # Each column's mean is within 5.5 standard errors: a false alarm in 5 million seeds.
        for column in (0, 1, 2, 5):
            x = draws[:, column]
            assert abs(x.mean() - p.mean[column]) < 5.5 * x.std() / 4_000**0.5
        for column in (3, 4):
            probs = p.groups[2].base_dist.probs[column - 3]
            found = torch.bincount(draws[:, column].long(), minlength=3) / 4_000
            assert ((found - probs).abs() < 5.5 * (probs * (1 - probs) / 4_000).sqrt()).all()

    def test_parameters_of_the_parts_are_learned(self):
        part = table()
        assert [name for name, _ in part.named_parameters()] == ["parts.3.raw_scale"]

    def test_single_entries_are_left_out(self):
        part = MAKERS["Heterogeneous"](None)
        p = part.from_output(torch.randn(5, *part.output_shape))
        x = p.sample()
        for column in range(7):
            mask = torch.arange(7) == column
            alone = p.group_of(column)
            first = sum(p.lengths[: p.groups.index(alone)])
            expected = alone.base_dist.log_prob(x[:, first : first + alone.event_shape[0]])[:, column - first]
            torch.testing.assert_close(p.masked(mask).log_prob(x), expected, rtol=1e-12, atol=1e-12)


class TestMistakes:
    @pytest.mark.parametrize(
        ("parts", "error", "message"),
        [
            ([], ValueError, "^parts: found none, expected one likelihood or more$"),
            ([Bernoulli(None, (1,)), "gaussian"], TypeError, r"^parts\[1\]: found str, expected a likelihood$"),
            (
                [Bernoulli(None, (2, 2))],
                ValueError,
                r"^parts\[0\]: found Bernoulli of data \(2, 2\), expected a likelihood of columns, \(n,\)$",
            ),
            (
                [Categorical(MLP(2, (256, 3)), (3,))],
                ValueError,
                r"^parts\[0\]: found a network of its own, expected None: one is split among them$",
            ),
            (
                [Heterogeneous(None, [Bernoulli(None, (1,))])],
                ValueError,
                r"^parts\[0\]: found Heterogeneous of data \(1,\), expected a likelihood of columns, \(n,\)$",
            ),
        ],
    )
    def test_parts_that_are_none(self, parts, error, message):
        with pytest.raises(error, match=message):
            Heterogeneous(MLP(2, (3,)), parts)
