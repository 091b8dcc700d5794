"""Likelihoods of grey levels and of codes: masses that sum to one, on the levels that data hold and on no others."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from pyro_vae import MLP, data
from pyro_vae.likelihoods import Binomial, Categorical, DiscretizedLogistic, DiscretizedLogisticMixture, Nominal
from pyro_vae.likelihoods.levels import Levels
from tests.support.every_likelihood import p_value

pytestmark = pytest.mark.usefixtures("double")
# By name: a likelihood of one pixel, and how many levels it has.
KINDS = {
    "Categorical": (lambda n: Categorical(n, (1,), num_levels=256), 256),
    "Categorical of 5": (lambda n: Categorical(n, (1,), num_levels=5), 5),
    "Binomial": (lambda n: Binomial(n, (1,), total_count=16), 17),
    "DiscretizedLogistic": (lambda n: DiscretizedLogistic(n, (1,)), 256),
    "DiscretizedLogistic of 2": (lambda n: DiscretizedLogistic(n, (1,), num_levels=2), 2),
    "DiscretizedLogisticMixture": (lambda n: DiscretizedLogisticMixture(n, (1,), num_components=3), 256),
    "Nominal": (lambda n: Nominal(n, (1,), num_categories=4), 4),
}


def one_pixel(name, size, num_data=6):
    """Its distribution for random outputs, and every value that it can take, ``(L, 1)``."""
    make, num_levels = KINDS[name]
    part = make(None)
    values = torch.arange(float(num_levels))[:, None]
    p = part.from_output(size * torch.randn(num_data, *part.output_shape))
    return p, values if name == "Nominal" else values / (num_levels - 1)


@pytest.mark.parametrize("name", KINDS)
class TestMass:
    @pytest.mark.parametrize("size", [0.0, 1.0, 10.0, 1e4])
    def test_it_sums_to_one(self, name, size):
        p, values = one_pixel(name, size)
        log_p = p.log_prob(values[:, None])  # (L, N)
        assert (log_p <= 1e-12).all()
        torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(6), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("size", [1.0, 10.0])
    def test_its_mean(self, name, size):
        p, values = one_pixel(name, size)
        log_p = p.log_prob(values[:, None])  # (L, N)
        expected = values[log_p.argmax(0)] if name == "Nominal" else (log_p.exp() * values).sum(0)[:, None]
        torch.testing.assert_close(p.mean, expected, rtol=1e-10, atol=1e-12)

    def test_its_draws(self, name):
        p, values = one_pixel(name, 0.5, num_data=1)
        draws = p.sample((20_000,)).flatten()
        index = (draws * (1 if name == "Nominal" else len(values) - 1)).round()
        assert p_value(index.long(), p.log_prob(values[:, None]).flatten()) > 1e-6  # a false alarm in a million seeds

    def test_levels_of_float32_are_those_of_float64(self, name):
        p, values = one_pixel(name, 1.0)
        assert torch.equal(p.log_prob(values[:, None]), p.log_prob(values[:, None].float().double()))
        assert p.base_dist.support.check(values.float()).all()


class TestConvention:
    def test_images_as_they_are_loaded_are_levels(self):
        x = torch.arange(256).byte().repeat(10, 1)
        split = data.load(x, binarize=None).train
        assert Levels(256).check(split[:]).all() and not Levels(255).check(split[:]).all()
        p = Categorical(None, (256,)).from_output(torch.randn(256, 256))
        k = torch.arange(256)
        rows = p.base_dist.levels.logits[k, k].sum()  # pixel k has level k
        torch.testing.assert_close(p.log_prob(split[0].double()), rows, rtol=1e-12, atol=0)

    def test_the_digits_are_levels_of_a_binomial(self):
        pytest.importorskip("sklearn")
        x = data.load("digits", binarize=None).test[:].double()
        p = Binomial(None, (8, 8), 16).from_output(torch.zeros(8, 8))
        assert p.support.check(x).all()
        expected = stats.binom(16, 0.5).logpmf((16 * x).numpy()).sum((1, 2))
        torch.testing.assert_close(p.log_prob(x), torch.from_numpy(expected), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("value", [-1 / 255, 0.5, 1 + 1 / 255, 17 / 255 + 1e-5, float("nan"), 128.0])
    def test_what_lies_between_or_beyond_the_levels_is_none(self, value):
        for dtype in (torch.float32, torch.float64):
            assert not Levels(256).check(torch.tensor(value, dtype=dtype))

    def test_categories_are_codes(self):
        logits = torch.randn(4, 3)
        p = Nominal(None, (3,), num_categories=4).from_output(logits)
        x = torch.tensor([3.0, 0.0, 2.0])
        torch.testing.assert_close(p.log_prob(x), logits.log_softmax(0)[x.long(), torch.arange(3)].sum())


class TestArguments:
    @pytest.mark.parametrize("value", [0, 1, -3, 2.0, "256", True])
    def test_numbers_of_levels(self, value):
        for make in (Categorical, DiscretizedLogistic, DiscretizedLogisticMixture):
            with pytest.raises(ValueError, match=rf"^num_levels: found {value!r}, expected an integer, 2 or more$"):
                make(MLP(2, (3,)), (3,), num_levels=value)
        with pytest.raises(ValueError, match=rf"^num_categories: found {value!r}, expected an integer, 2 or more$"):
            Nominal(MLP(2, (3,)), (3,), num_categories=value)

    @pytest.mark.parametrize("value", [0, -3, 2.0, "16", True])
    def test_other_counts(self, value):
        with pytest.raises(ValueError, match=rf"^total_count: found {value!r}, expected an integer, 1 or more$"):
            Binomial(MLP(2, (3,)), (3,), total_count=value)
        with pytest.raises(ValueError, match=rf"^num_components: found {value!r}, expected an integer, 1 or more$"):
            DiscretizedLogisticMixture(MLP(2, (3,)), (3,), num_components=value)
