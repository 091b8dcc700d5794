"""Likelihoods of counts: SciPy's probabilities, their sums, means and draws, with zeros lost or not."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from pyro_vae import MLP
from pyro_vae.likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from pyro_vae.nn.scales import bounded_scale
from tests.support.every_likelihood import p_value

pytestmark = pytest.mark.usefixtures("double")
KINDS = {
    "Poisson": (Poisson, {}),
    "NegativeBinomial": (NegativeBinomial, {"inverse_dispersion": "decoder"}),
    "ZeroInflatedPoisson": (ZeroInflatedPoisson, {}),
    "ZeroInflatedNegativeBinomial": (ZeroInflatedNegativeBinomial, {"inverse_dispersion": "decoder"}),
}


def entries(make, arguments, num_data=8):
    """The distribution of single counts at random outputs, with means up to 20, and what the outputs were."""
    part = make(None, (1,), high=20.0, low=0.05, **arguments)
    output = 2 * torch.randn(num_data, *part.output_shape)
    return part.from_output(output).base_dist, output.reshape(num_data, -1)  # (N, num_outputs)


def reference(output, inflated, negative):
    """SciPy's distribution for the outputs, and the probability of lost counts."""
    gate = output[:, :1].sigmoid() if inflated else torch.zeros(len(output), 1)
    output = output[:, inflated:]
    mean = bounded_scale(output[:, :1], 0.05, 20.0).numpy()  # (N, 1)
    if not negative:
        return stats.poisson(mean), gate
    theta = bounded_scale(output[:, 1:], 1e-3, 1e3).numpy()
    return stats.nbinom(theta, theta / (theta + mean)), gate


@pytest.mark.parametrize("name", KINDS)
class TestEachKind:
    def test_it_is_the_formula(self, name):
        p, output = entries(*KINDS[name])
        base, gate = reference(output, name.startswith("Zero"), name.endswith("Binomial"))
        for x in (0, 1, 2, 7, 100):
            expected = gate * (x == 0) + (1 - gate) * torch.from_numpy(base.pmf(x))
            torch.testing.assert_close(p.log_prob(torch.tensor(float(x))).exp(), expected, rtol=1e-10, atol=1e-300)
        torch.testing.assert_close(p.mean, (1 - gate) * torch.from_numpy(base.mean()), rtol=1e-10, atol=0)

    def test_it_sums_to_one_and_its_mean_is_that_of_the_sum(self, name):
        p, output = entries(*KINDS[name])
        base, _ = reference(output, name.startswith("Zero"), name.endswith("Binomial"))
        last = base.isf(1e-15).max()  # beyond it there is less than float64 shows of a sum of 1
        assert last < 1e6
        x = torch.arange(float(last + 1))[:, None, None]  # (L, 1, 1)
        probs = p.log_prob(x).exp()  # (L, N, 1)
        torch.testing.assert_close(probs.sum(0), torch.ones(8, 1), rtol=0, atol=1e-10)
        torch.testing.assert_close((probs * x).sum(0), p.mean, rtol=1e-9, atol=0)

    def test_its_draws(self, name):
        p, _ = entries(*KINDS[name], num_data=1)
        draws = p.sample((20_000,)).flatten().long()
        log_p = p.log_prob(torch.arange(2000.0)[:, None, None]).flatten()
        assert p_value(draws.clamp(max=1999), log_p) > 1e-6  # a false alarm in a million seeds


class TestNegativeBinomial:
    @pytest.mark.parametrize("make", [NegativeBinomial, ZeroInflatedNegativeBinomial])
    @pytest.mark.parametrize(("where", "shape"), [("shared", ()), ("per_entry", (3,)), ("decoder", None)])
    def test_where_the_inverse_dispersion_comes_from(self, make, where, shape):
        part = make(None, (3,), where)
        learned = {name: tuple(p.shape) for name, p in part.named_parameters()}
        assert learned == ({} if shape is None else {"raw_inverse_dispersion": shape})
        output = torch.zeros(5, *part.output_shape, requires_grad=True)
        base = part.from_output(output).base_dist
        base = getattr(base, "base_dist", base)
        torch.testing.assert_close(base.total_count, torch.ones(5, 3), rtol=1e-12, atol=0)
        part.from_output(output).log_prob(torch.tensor([0.0, 1.0, 5.0])).sum().backward()
        assert all((p.grad != 0).all() for p in part.parameters())

    def test_its_variance_is_that_of_the_papers(self):
        p, output = entries(NegativeBinomial, {"inverse_dispersion": "decoder"})
        theta = bounded_scale(output[:, 1:], 1e-3, 1e3)
        torch.testing.assert_close(p.variance, p.mean + p.mean.square() / theta, rtol=1e-10, atol=0)

    def test_a_large_inverse_dispersion_is_nearly_a_poisson(self):
        raw = torch.tensor([[0.5], [100.0]])  # (2, 1): the mean, and θ at its bound
        one, other = NegativeBinomial(None, (1,), "decoder").from_output(raw), Poisson(None, (1,)).from_output(raw[0])
        x = torch.arange(6.0)[:, None]
        torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=0, atol=0.02)

    def test_float32_is_good_to_a_hundredth_of_a_nat(self):
        raw = torch.randn(200, 2, 1) * 10  # the bounds of θ among them
        part = NegativeBinomial(None, (1,), "decoder", high=1e3)
        x = part.from_output(raw).sample()
        exact, found = part.from_output(raw).log_prob(x), part.from_output(raw.float()).log_prob(x.float())
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-2)

    def test_an_unknown_mode_lists_the_choices(self):
        message = "^inverse_dispersion: found 'fixed', expected one of 'shared', 'per_entry', 'decoder'$"
        with pytest.raises(ValueError, match=message):
            NegativeBinomial(MLP(2, (3,)), (3,), "fixed")


class TestBounds:
    @pytest.mark.parametrize("make", [Poisson, NegativeBinomial])
    def test_the_mean_stays_within_them(self, make):
        part = make(None, (3,), low=0.5, high=8.0)
        p = part.from_output(torch.tensor([-1e30, 0.0, 1e30]))
        torch.testing.assert_close(p.mean, torch.tensor([0.5, 2.0, 8.0]), rtol=1e-10, atol=0)

    @pytest.mark.parametrize("make", [Poisson, NegativeBinomial])
    def test_they_are_in_order(self, make):
        with pytest.raises(ValueError, match="^low, high: found 2.0 and 1.0, expected 0 < low < high"):
            make(MLP(2, (3,)), (3,), low=2.0, high=1.0)(torch.zeros(1, 2))
