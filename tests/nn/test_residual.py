"""Residual networks on images: sizes up and down the levels, any leading dimensions, and torch's own numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pyro_vae.nn.residual import Convolution, ResidualBlock, Resize, Upward, levels_of

pytestmark = pytest.mark.usefixtures("double")
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
IMAGES = [(1, 28, 28), (1, 28, 20), (3, 7, 5), (3, 32, 32), (1, 4, 4), (2, 3, 1), (1, 1, 1)]


def one_by_one(network, x):
    """The same, an image at a time."""
    rows = torch.stack([network(row[None])[0] for row in x.reshape(-1, *x.shape[-3:])])
    return rows.reshape(*x.shape[:-3], *rows.shape[1:])


class TestLevels:
    @pytest.mark.parametrize(
        ("image", "sizes"),
        [
            ((1, 28, 28), [(14, 14), (7, 7), (1, 1)]),
            ((1, 28, 20), [(14, 10), (7, 5), (1, 1)]),
            ((3, 7, 5), [(4, 3), (2, 2), (1, 1)]),
            ((1, 2, 1), [(1, 1), (1, 1), (1, 1)]),
        ],
    )
    def test_each_is_half_of_the_one_below_and_the_top_a_pixel(self, image, sizes):
        channels = (4, 5, 6)
        assert levels_of(image, channels) == [(c, *size) for c, size in zip(channels, sizes, strict=True)]


class TestConvolution:
    @pytest.mark.parametrize("kernel_size", [1, 3])
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("batch_shape", [(2,), (3, 2), (2, 1, 3)])
    def test_it_is_torchs_over_any_leading_dimensions(self, kernel_size, stride, batch_shape):
        layer = Convolution(3, 4, kernel_size, stride=stride)
        nn.init.normal_(layer.bias)
        x = torch.randn(*batch_shape, 3, 7, 5)
        plain = functional.conv2d(x.reshape(-1, 3, 7, 5), layer.weight, layer.bias, stride, kernel_size // 2)
        y = layer(x)
        assert y.shape == (*batch_shape, *plain.shape[1:])
        torch.testing.assert_close(y, plain.reshape(y.shape), **CLOSE)

    @pytest.mark.parametrize("factor", [1.0, 0.1])
    def test_weights_start_small_by_a_factor_and_biases_at_zero(self, factor):
        layer = Convolution(64, 64, 3, factor)
        # 36,864 normal draws: the relative standard error of their deviation is 1 / sqrt(2 N) = 0.4 %; six of them.
        assert layer.weight.std().item() == pytest.approx(factor / math.sqrt(64 * 9), rel=0.023)
        assert (layer.bias == 0).all()


class TestResidualBlock:
    @pytest.mark.parametrize("size", [(5, 4), (1, 1), (1, 3)])
    def test_it_adds_to_what_it_is_given(self, size):
        block = ResidualBlock((3, *size), factor=0.7)
        for bias in (block.inner.bias, block.outer.bias):
            nn.init.normal_(bias)
        h = torch.randn(2, 6, 3, *size)
        flat = h.flatten(0, 1)
        inner = functional.conv2d(functional.silu(flat), block.inner.weight, block.inner.bias, 1, "same")
        added = functional.conv2d(functional.silu(inner), block.outer.weight, block.outer.bias)
        torch.testing.assert_close(block(h), (flat + added).reshape(h.shape), **CLOSE)
        assert block.inner.kernel_size == ((1, 1) if size == (1, 1) else (3, 3))

    def test_a_factor_of_zero_leaves_the_image(self):
        h = torch.randn(4, 3, 5, 5)
        assert torch.equal(ResidualBlock((3, 5, 5), factor=0.0)(h), h)

    def test_a_hundred_of_them_keep_the_size_and_pass_the_gradient_on(self):
        blocks = nn.Sequential(*(ResidualBlock((8, 4, 4), factor=0.1) for _ in range(100)))
        h = torch.randn(5, 8, 4, 4, requires_grad=True)
        y = blocks(h)
        (slope,) = torch.autograd.grad(y.square().sum() / 2, h)
        for found, given in ((y, h), (slope, h)):
            assert 0.5 < (found.std() / given.std()).item() < 4


class TestResize:
    @pytest.mark.parametrize("image", IMAGES)
    @pytest.mark.parametrize("batch_shape", [(2,), (3, 2)])
    def test_up_and_down_the_levels_of_any_image(self, image, batch_shape):
        levels = levels_of(image, (4, 5, 6))
        for before, after in zip([image, *levels], levels, strict=False):
            for source, target in ((before, after), (after, before)):
                layer = Resize(source, target)
                x = torch.randn(*batch_shape, *source)
                y = layer(x)
                assert y.shape == (*batch_shape, *target)
                torch.testing.assert_close(y, one_by_one(layer, x), **CLOSE)

    @pytest.mark.parametrize("image", [(1, 28, 20), (3, 7, 5), (2, 3, 1)])
    def test_every_pixel_is_seen_and_every_pixel_is_reached(self, image):
        levels = [image, *levels_of(image, (4, 6))]
        for source, target in [(a, b) for a in levels for b in levels if abs(levels.index(a) - levels.index(b)) == 1]:
            layer = Resize(source, target)
            x = torch.randn(20, *source, requires_grad=True)
            y = layer(x)
            y.square().sum().backward()
            assert (x.grad != 0).all() and (y.std(0) > 0).all()

    def test_up_sets_four_outputs_of_a_pixel_side_by_side(self):
        layer = Resize((3, 2, 2), (2, 4, 3))
        x = torch.randn(5, 3, 2, 2)
        four = layer.map[0](x).reshape(5, 2, 2, 2, 2, 2)  # image, channel, row and column in the four, row, column
        expected = four.permute(0, 1, 4, 2, 5, 3).reshape(5, 2, 4, 4)[..., :3]
        torch.testing.assert_close(layer(x), expected, **CLOSE)

    def test_the_channels_of_a_pixel_are_neighbours_in_memory(self):
        for source, target in (((3, 8, 8), (5, 4, 4)), ((5, 4, 4), (3, 8, 8)), ((6, 1, 1), (3, 8, 8))):
            assert Resize(source, target)(torch.randn(2, *source)).stride(-3) == 1


class TestUpward:
    @pytest.mark.parametrize("image", IMAGES)
    @pytest.mark.parametrize("num_blocks", [1, 3])
    def test_features_of_every_level_from_the_data_up(self, image, num_blocks):
        levels = levels_of(image, (4, 5, 6))
        upward = Upward(image, levels, num_blocks)
        x = torch.randn(3, 2, *image)
        features = upward(x)
        assert [tuple(f.shape) for f in features] == [(3, 2, *level) for level in levels]
        for i, found in enumerate(features):
            torch.testing.assert_close(found, one_by_one(lambda row, i=i: upward(row)[i], x), **CLOSE)
        assert sum(isinstance(m, ResidualBlock) for m in upward.modules()) == 3 * num_blocks

    def test_the_top_sees_the_whole_image(self):
        upward = Upward((1, 28, 20), levels_of((1, 28, 20), (4, 5, 6)), 1)
        x = torch.randn(1, 1, 28, 20, requires_grad=True)
        upward(x)[-1].sum().backward()
        assert (x.grad != 0).all()
