"""Convolutional networks: shapes under any leading dimensions, and what each output depends on."""

from __future__ import annotations

import pytest
import torch

from pyro_vae.nn.images import ImageDecoder, ImageEncoder

SHAPES = [(8, 8), (7, 5), (1, 1), (28, 20), (3, 6, 9), (1, 4, 4)]


class TestImages:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("channels", [(4,), (3, 4), (2, 3, 4)])
    @pytest.mark.parametrize("batch_shape", [(), (2,), (3, 2)])
    def test_any_size_any_depth_and_any_leading_dimensions(self, shape, channels, batch_shape, double):
        encoder = ImageEncoder(shape, (2, 3), channels)
        x = torch.randn(*batch_shape, *shape)
        assert encoder(x).shape == (*batch_shape, 2, 3)
        for num_outputs, out_shape in ((1, shape), (2, (2, *shape))):
            decoder = ImageDecoder(3, shape, channels, num_outputs=num_outputs)
            z = torch.randn(*batch_shape, 3)
            assert decoder(z).shape == (*batch_shape, *out_shape)
        for network, given, size in ((encoder, x, shape), (decoder, z, (3,))):
            rows = torch.stack([network(row) for row in given.reshape(-1, *size)])
            torch.testing.assert_close(network(given).reshape(rows.shape), rows, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_pixel_is_seen_and_every_pixel_is_reached(self, shape, double):
        encoder = ImageEncoder(shape, 6, (3, 4), activation="tanh")
        x = torch.randn(*shape, requires_grad=True)
        encoder(x).sum().backward()
        assert (x.grad != 0).all()
        decoder = ImageDecoder(5, shape, (4, 3), activation="tanh", num_outputs=2)
        images = decoder(torch.randn(20, 5))
        assert (images.std(0) > 0).all()
        images.square().sum().backward()
        assert all((p.grad != 0).any() for p in decoder.parameters())

    def test_each_stage_halves_the_image(self):
        encoder = ImageEncoder((1, 28, 20), 5, (3, 4))
        assert encoder.output.in_features == 4 * 7 * 5
        assert ImageDecoder(5, (28, 20), (4, 3)).small_shape == (4, 7, 5)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: ImageEncoder((8,), 2),
                r"in_shape: found \(8,\), expected an image, \(height, width\) or \(channels,",
            ),
            (lambda: ImageDecoder(2, (1, 2, 8, 8)), r"out_shape: found \(1, 2, 8, 8\), expected an image"),
            (lambda: ImageEncoder((8, 0), 2), r"in_shape: found \(8, 0\), expected positive integers"),
            (lambda: ImageDecoder(0, (8, 8)), "in_features: found 0, expected positive integers"),
            (lambda: ImageDecoder(2, (8, 8), ()), "channels: found no stage, expected one or more"),
            (lambda: ImageDecoder(2, (8, 8), num_outputs=0), "num_outputs: found 0, expected positive integers"),
            (lambda: ImageEncoder((8, 8), 2, activation="x"), "activation: found 'x', expected one of "),
            (
                lambda: ImageEncoder((8, 8), 2)(torch.zeros(3, 8, 9)),
                r"ImageEncoder: found an input of shape \(3, 8, 9\), expected",
            ),
            (
                lambda: ImageDecoder(2, (8, 8))(torch.zeros(3)),
                r"ImageDecoder: found an input of shape \(3,\), expected \(\*batch, 2\)",
            ),
        ],
    )
    def test_errors(self, make, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            make()
