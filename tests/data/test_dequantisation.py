"""Dequantised grey levels: what the noise makes of them, and that bounds of densities and of masses compare."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

import pyro_vae
from pyro_vae import data
from pyro_vae.data.dequantisation import bits_per_dim, dequantize
from pyro_vae.data.split import Split


def bytes_of(n=50, shape=(2, 3)):
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (n, *shape))).byte()


class TestNoise:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_level_becomes_its_interval(self, dtype):
        k = torch.arange(256, dtype=dtype)
        almost = 1 - torch.finfo(dtype).eps / 2
        low, high = (dequantize(k, 256, torch.full_like(k, u)) for u in (0.0, almost))
        assert torch.equal(low, k / 256)
        assert ((k / 256 < high) & (high <= (k + 1) / 256)).all()
        assert high[-1] < 1  # although 255 + u is 256 in float32

    def test_a_split_draws_it_anew_at_each_use_from_the_global_generator(self):
        split = Split(bytes_of(), levels=255, dequantize=True)
        torch.manual_seed(1)
        first, second = split[:], split[:]
        torch.manual_seed(1)
        assert torch.equal(split[:], first) and not torch.equal(first, second)
        for x in (first, second, *split.batches(50, shuffle=False)):
            assert torch.equal((256 * x).floor(), split.values.float())
        assert repr(split) == "Split(50 x (2, 3), grey levels 0..255 dequantised at each use, on cpu)"
        assert split.to("cpu").dequantize

    def test_the_noise_is_uniform(self):
        noise = (Split(bytes_of(1000), levels=255, dequantize=True)[:].double() * 256) % 1
        assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-6  # a false alarm in a million seeds

    @pytest.mark.parametrize(
        "arguments",
        [
            {"values": bytes_of(), "levels": 1},
            {"values": bytes_of() / 255, "levels": 255},
            {"values": bytes_of(), "levels": 255, "binarize": "dynamic"},
        ],
    )
    def test_only_whole_levels_can_be_dequantised(self, arguments):
        with pytest.raises(
            ValueError, match=r"^dequantize: found levels=.*, binarize=.* and torch\..*, expected whole"
        ):
            Split(**arguments, dequantize=True)


class TestLoading:
    def test_training_data_are_drawn_anew_and_the_others_once_by_the_seed(self):
        splits, again, other = (data.load(bytes_of(), dequantize=True, seed=seed) for seed in (0, 0, 1))
        assert splits.train.dequantize and not torch.equal(splits.train[:], splits.train[:])
        plain = data.load(bytes_of())
        for name in ("valid", "test"):
            part, levels = getattr(splits, name), getattr(plain, name).values
            assert torch.equal(part[:], part[:]) and torch.equal(part[:], getattr(again, name)[:])
            assert torch.equal((256 * part[:]).floor(), levels.float()) and part[:].max() < 1
        assert not torch.equal(splits.test[:], other.test[:])
        assert (splits.train.num_levels, splits.test.num_levels, plain.test.num_levels) == (256, 256, 1)
        assert splits.test.to("cpu").num_levels == 256
        assert repr(splits.test) == "Split(5 x (2, 3), grey levels 0..255 dequantised once, on cpu)"

    def test_black_and_white_images_are_then_left_grey(self):
        pytest.importorskip("sklearn")
        splits = data.load("digits", dequantize=True)
        assert splits.train.binarize is None and splits.train.dequantize
        assert torch.equal((17 * splits.test[:]).floor(), data.load("digits", binarize=None).test.values.float())
        with pytest.raises(ValueError, match="^dequantize: found levels=16, binarize='static'"):
            data.load("digits", binarize="static", dequantize=True)

    def test_arrays_without_grey_levels_are_refused(self):
        for values in (torch.rand(20, 3), bytes_of(20) // 255):
            with pytest.raises(ValueError, match="^dequantize: found levels=1, "):
                data.load(values, dequantize=True)

    def test_no_global_generator_moves(self):
        before = torch.get_rng_state(), str(np.random.get_state())
        data.load(bytes_of(), dequantize=True)
        assert torch.equal(before[0], torch.get_rng_state()) and before[1] == str(np.random.get_state())


class TestBitsPerDim:
    def test_a_uniform_density_costs_all_eight_bits(self):
        assert bits_per_dim(0.0, 784, 256) == 8.0
        assert bits_per_dim(-784 * math.log(256), 784) == pytest.approx(8.0, rel=1e-14)

    def test_a_gaussian_of_known_levels(self):
        # One pixel of 16 levels by a Gaussian's own masses. The entropy of these is the least that any model can take;
        # the dequantised Gaussian's bound is above it by what the integral of its log-density says, and no more.
        num_levels, loc, scale = 16, 0.45, 0.12
        edges = torch.linspace(0, 1, num_levels + 1, dtype=torch.float64)
        mass = stats.norm(loc, scale).cdf(edges[1:].numpy()) - stats.norm(loc, scale).cdf(edges[:-1].numpy())
        mass /= mass.sum()
        density = stats.norm(loc, scale)
        bound = sum(
            p * integrate.quad(lambda u, k=k: density.logpdf((k + u) / num_levels), 0, 1, epsabs=1e-13)[0]
            for k, p in enumerate(mass)
        )
        entropy = special.entr(mass).sum() / math.log(2)
        expected = bits_per_dim(bound, 1, num_levels)
        assert entropy < expected < entropy + 0.05

        class Fixed(torch.nn.Module):
            def forward(self, z):
                return torch.full((*z.shape[:-1], 1), loc, dtype=z.dtype)

        vae = pyro_vae.VAE(
            prior=pyro_vae.StandardNormal(1),
            likelihood=pyro_vae.Gaussian(Fixed(), (1,), scale="fixed", initial_scale=scale),
            posterior=pyro_vae.DiagonalNormal(pyro_vae.MLP((1,), (2, 1), ())),
        ).double()
        with torch.no_grad():
            for parameter in vae.guide.parameters():
                parameter.zero_()  # q(z|x) = p(z), so log p(x) is that of the Gaussian with one particle
        levels = torch.from_numpy(np.random.RandomState(0).choice(num_levels, 20_000, p=mass)).byte()[:, None]
        torch.manual_seed(0)
        x = Split(levels, levels=num_levels - 1, dequantize=True)
        estimate = pyro_vae.log_likelihood(vae.model, vae.guide, x, 1, batch_size=20_000, seed=0)
        error = estimate.values.std().item() / math.log(2) / 20_000**0.5
        # 5.5 standard errors over the data and their noise: a false alarm in 25 million seeds
        assert abs(estimate.bits_per_dim(num_levels) - expected) < 5.5 * error
        assert estimate.bits_per_dim(num_levels) == pytest.approx(estimate.bits_per_dim() + 4.0, rel=1e-12)
