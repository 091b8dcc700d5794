"""Rounded logistics: the papers' formulas, also in colour, and exact where a difference of sigmoids is lost."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

import pyro_vae
from pyro_vae import MLP, ImageDecoder
from pyro_vae.likelihoods import DiscretizedLogistic, DiscretizedLogisticMixture
from pyro_vae.likelihoods.logistic import RoundedLogistic
from pyro_vae.likelihoods.mixture import ColourLevels
from pyro_vae.nn.scales import bounded_scale
from tests.support.every_likelihood import p_value

pytestmark = pytest.mark.usefixtures("double")


def interval(x, loc, scale, num_levels):
    """PixelCNN++'s probability of a level x in [-1, 1], by the difference of two sigmoids."""
    half = 1 / (num_levels - 1)
    upper = torch.where(x > 1 - half, 1.0, torch.sigmoid((x + half - loc) / scale))
    lower = torch.where(x < half - 1, 0.0, torch.sigmoid((x - half - loc) / scale))
    return upper - lower


def in_colour(num_components, num_levels, size=1.0, image=(1, 1)):
    part = DiscretizedLogisticMixture(None, (3, *image), num_components, num_levels, low=0.05)
    output = size * torch.randn(*part.output_shape)
    return part.from_output(output), output


class TestFormula:
    @pytest.mark.parametrize("num_levels", [2, 7, 256])
    def test_a_single_one(self, num_levels):
        part = DiscretizedLogistic(MLP(2, (2, 3), (4,)), (3,), num_levels, low=0.05)
        z = torch.randn(5, 2)
        x = torch.randint(num_levels, (5, 3)) / (num_levels - 1)
        loc, raw = part.network(z).unbind(1)
        scale = 2 * bounded_scale(raw, 0.05, 10.0)  # the paper's levels go from -1 to 1
        expected = interval(2 * x - 1, loc, scale, num_levels).log().sum(-1)
        torch.testing.assert_close(part(z).log_prob(x), expected, rtol=1e-9, atol=1e-10)

    def test_a_mixture(self):
        part = DiscretizedLogisticMixture(MLP(2, (12, 3, 2), (4,)), (3, 2), 4, low=0.05)
        z = torch.randn(5, 2)
        x = torch.randint(256, (5, 3, 2)) / 255
        logits, loc, raw = part.network(z).unflatten(1, (3, 4)).unbind(1)  # (5, 4, 3, 2) each
        scale = 2 * bounded_scale(raw, 0.05, 10.0)
        mass = interval(2 * x[:, None] - 1, loc, scale, 256)
        expected = (logits.softmax(1) * mass).sum(1).log().sum((1, 2))
        torch.testing.assert_close(part(z).log_prob(x), expected, rtol=1e-9, atol=1e-10)

    def test_one_component_is_a_single_one(self):
        outputs = torch.randn(5, 3, 4, 4)
        x = torch.randint(256, (5, 4, 4)) / 255
        mixture = DiscretizedLogisticMixture(None, (4, 4), 1).from_output(outputs)
        single = DiscretizedLogistic(None, (4, 4)).from_output(outputs[:, 1:])
        torch.testing.assert_close(mixture.log_prob(x), single.log_prob(x), rtol=1e-12, atol=0)

    def test_in_colour_green_depends_on_red_and_blue_on_both(self):
        p, output = in_colour(4, 256, image=(2, 3))
        x = torch.randint(256, (3, 2, 3)) / 255
        total = torch.zeros(())
        for row, column in product(range(2), range(3)):
            red, green, blue = 2 * x[:, row, column] - 1
            mass = []
            for logit, *loc, s_r, s_g, s_b, alpha, beta, gamma in output[:, row, column].reshape(4, 10):
                s_r, s_g, s_b = (2 * bounded_scale(s, 0.05, 10.0) for s in (s_r, s_g, s_b))
                mass.append(
                    logit.exp()
                    * interval(red, loc[0], s_r, 256)
                    * interval(green, loc[1] + alpha.tanh() * red, s_g, 256)
                    * interval(blue, loc[2] + beta.tanh() * red + gamma.tanh() * green, s_b, 256)
                )
            logits = output[::10, row, column]
            total += (torch.stack(mass).sum() / logits.exp().sum()).log()
        torch.testing.assert_close(p.log_prob(x), total, rtol=1e-9, atol=1e-9)


class TestExtremes:
    def test_the_tails_are_exact(self):
        # Far out, a sigmoid is an exponential: P(k) = e^(b) (1 - e^(-1/s)) with b = (k + 1/2 - loc) / s.
        p = RoundedLogistic(torch.tensor(10_000.0), torch.tensor(0.5), top=255)
        k = torch.tensor([1.0, 100.0, 254.0])
        expected = (k + 0.5 - 10_000) / 0.5 + math.log(-math.expm1(-2))
        torch.testing.assert_close(p.log_prob(k), expected, rtol=1e-12, atol=0)
        assert p.log_prob(torch.tensor(0.0)).item() == pytest.approx((0.5 - 10_000) / 0.5, rel=1e-12)
        assert p.log_prob(torch.tensor(255.0)).item() == 0.0

    def test_a_narrow_one_has_all_of_its_mass_on_a_level(self):
        p = RoundedLogistic(torch.tensor(17.2), torch.tensor(1e-3), top=255)
        log_p = p.log_prob(torch.tensor([16.0, 17.0, 18.0]))
        torch.testing.assert_close(log_p, torch.tensor([-700.0, 0.0, -300.0]), rtol=1e-12, atol=1e-12)

    def test_float32_agrees_with_float64(self):
        loc = (torch.rand(1000) * 400 - 70).float()
        scale = torch.logspace(-1, 3.4, 1000)[torch.randperm(1000)].float()
        k = torch.randint(256, (1000,)).float()
        exact = RoundedLogistic(loc.double(), scale.double(), 255).log_prob(k.double())
        found = RoundedLogistic(loc, scale, 255).log_prob(k)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)

    def test_black_and_white_are_alike(self):
        loc, scale, k = 500 * torch.randn(200), torch.rand(200) * 5 + 0.1, torch.randint(256, (200,)).double()
        one, other = RoundedLogistic(loc, scale, 255), RoundedLogistic(255 - loc, scale, 255)
        torch.testing.assert_close(one.log_prob(k), other.log_prob(255 - k), rtol=1e-10, atol=1e-12)


class TestColour:
    @pytest.mark.parametrize("size", [0.0, 1.0, 10.0, 1e4])
    @pytest.mark.parametrize("image", [(1, 1), (1, 2)])
    def test_it_sums_to_one_over_all_images(self, size, image):
        num_levels = 5 if image == (1, 1) else 3
        p, _ = in_colour(3, num_levels, size, image)
        images = torch.tensor(list(product(range(num_levels), repeat=3 * image[1]))) / (num_levels - 1)
        log_p = p.log_prob(images.reshape(-1, 3, *image))
        assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-10)

    def test_its_draws(self):
        p, _ = in_colour(2, 4)
        values = torch.cartesian_prod(*[torch.arange(4) / 3] * 3)  # (64, 3)
        draws = (3 * p.sample((20_000,))).round().long().reshape(-1, 3) @ torch.tensor([16, 4, 1])
        assert p_value(draws, p.log_prob(values[..., None, None])) > 1e-6  # a false alarm in a million seeds

    def test_its_mean_is_exact_away_from_black_and_white(self):
        # Components in the middle of 64 levels, 15 scales from the ends: what is clipped is below 1e-6 levels.
        loc, scale = 31.5 + 3 * torch.randn(2, 3, 1, 1), torch.full((2, 3, 1, 1), 1.5)
        p = ColourLevels(torch.randn(2, 1, 1), loc, scale, 0.3 * torch.randn(2, 3, 1, 1).tanh(), 64)
        values = torch.cartesian_prod(*[torch.arange(64) / 63] * 3)  # (64^3, 3)
        expected = (p.log_prob(values[..., None, None]).exp()[:, None] * values).sum(0)
        torch.testing.assert_close(p.mean.flatten(), expected, rtol=0, atol=1e-6 / 63)

    def test_near_them_the_mean_of_red_still_is_and_the_others_are_close(self):
        p, _ = in_colour(2, 16)
        values = torch.cartesian_prod(*[torch.arange(16) / 15] * 3)
        expected = (p.log_prob(values[..., None, None]).exp()[:, None] * values).sum(0)
        assert p.mean[0].item() == pytest.approx(expected[0].item(), abs=1e-12)
        assert (p.mean.flatten() - expected).abs().max() < 0.05

    @pytest.mark.parametrize("num_data", [1, 60])
    def test_a_pixel_with_some_of_its_channels_is_refused(self, num_data):
        """Wherever data with a mask come in, in the first batch or a later one."""
        likelihood = DiscretizedLogisticMixture(MLP(2, (50, 2, 2), (4,)), (3, 2, 2))
        vae = pyro_vae.VAE((3, 2, 2), 2, (4,), likelihood=likelihood).double()
        x = torch.randint(256, (num_data, 3, 2, 2)) / 255
        x[-1, 1, 0, 1] = torch.nan
        packed, pair = pyro_vae.pack(x), pyro_vae.observed_only(vae.model, vae.guide)
        message = "mask: found a pixel with 2 of 3 channels observed, expected all or none of them"
        for call in (
            lambda: pyro_vae.log_likelihood(*pair, packed, 10),
            lambda: pyro_vae.impute(vae.model, vae.guide, x, num_particles=10),
            lambda: pyro_vae.fit(*pair, packed, batch_size=min(50, num_data), num_epochs=1, progress=False),
            lambda: pyro_vae.ELBO().bound(*pair, packed),
            lambda: pyro_vae.score(*pair, packed, num_particles=10),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        x[-1, :, 0, 1] = torch.nan
        assert pyro_vae.log_likelihood(*pair, pyro_vae.pack(x), 10).values.isfinite().all()

    def test_a_pixel_counts_if_its_channels_are_observed(self):
        p, _ = in_colour(2, 256, image=(2, 2))
        x = torch.randint(256, (3, 2, 2)) / 255
        mask = torch.ones(3, 2, 2, dtype=torch.bool)
        mask[:, 0, 1] = False
        one = ColourLevels(*(t[..., :1, 1:] for t in (p.logits, p.loc, p.scale, p.coupling)), 256)
        expected = p.log_prob(x) - one.log_prob(x[:, :1, 1:])
        torch.testing.assert_close(p.masked(mask).log_prob(x), expected, rtol=1e-10, atol=0)
        twice = p.masked(mask).masked(mask.flip(-1))
        assert torch.equal(twice.log_prob(x), p.masked(mask & mask.flip(-1)).log_prob(x))
        assert torch.equal(p.masked(mask).expand((5,)).log_prob(x), p.masked(mask).log_prob(x).expand(5))

    def test_a_convolutional_decoder_gives_ten_numbers_a_component(self):
        decoder = ImageDecoder(2, (8, 8), (4,), num_outputs=50)
        p = DiscretizedLogisticMixture(decoder, (3, 8, 8))(torch.randn(6, 2))
        assert p.batch_shape == (6,) and p.event_shape == (3, 8, 8)
