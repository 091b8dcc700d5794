r"""Residual networks on images, for the levels of a ladder.

A residual block adds to its input,

.. math:: h \leftarrow h + W_2\, f\bigl(W_1\, f(h)\bigr),

so that gradients pass through a hundred blocks (He et al., *Identity Mappings in Deep Residual Networks*, 2016). Here
:math:`W_1` is 3 × 3 and :math:`W_2` is 1 × 1. The initial :math:`W_2` is divided by the root of the number of blocks,
so that the sum of all additions does not grow with the depth (Child, *Very Deep VAEs*, 2021).

The images of a level have half the height and width of those below. At the top they are single pixels: vectors that
see the whole image. Any number of dimensions may stand before ``(channels, height, width)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae.nn.images import as_image

__all__ = ["Convolution", "Level", "Pixels", "ResidualBlock", "Resize", "Upward", "levels_of"]

Level = tuple[int, int, int]
"""The channels, height and width of an image."""


def levels_of(image: Level, channels: Sequence[int]) -> list[Level]:
    """Return the image of each level, from the data up: each is half as large, the top one is a single pixel.

    >>> levels_of((1, 28, 28), (32, 64, 64))
    [(32, 14, 14), (64, 7, 7), (64, 1, 1)]
    """
    _, height, width = image
    levels = []
    for count in channels[:-1]:
        height, width = (height + 1) // 2, (width + 1) // 2
        levels.append((count, height, width))
    return [*levels, (channels[-1], 1, 1)]


def _channels_last(images: Tensor) -> Tensor:
    """Lay the channels of a pixel next to each other in memory, which makes convolutions faster on a CPU."""
    return images.movedim(-3, -1).contiguous().movedim(-1, -3)


class Convolution(nn.Conv2d):
    """A convolution that keeps the size or halves it; ``factor`` multiplies the initial weights."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, factor: float = 1.0, stride: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.weight.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(_channels_last(x).flatten(0, -4))
        return y.unflatten(0, x.shape[:-3])


class ResidualBlock(nn.Module):
    """A residual block of two convolutions.

    >>> ResidualBlock((8, 4, 4))(torch.zeros(2, 5, 8, 4, 4)).shape
    torch.Size([2, 5, 8, 4, 4])
    """

    def __init__(self, level: Level, factor: float = 1.0) -> None:
        super().__init__()
        self.inner = Convolution(level[0], level[0], 1 if level[1:] == (1, 1) else 3)
        self.outer = Convolution(level[0], level[0], 1, factor)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.outer(functional.silu(self.inner(functional.silu(h))))


class Resize(nn.Module):
    """A map between the images of adjacent levels, of half or twice the size, or to and from a single pixel.

    Downwards it is a convolution with stride 2. Upwards a convolution gives four outputs per pixel, which become four
    pixels (Shi et al., *Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network*, 2016). To and from a single pixel it is a linear map.

    >>> Resize((8, 7, 7), (4, 14, 14))(torch.zeros(2, 5, 8, 7, 7)).shape
    torch.Size([2, 5, 4, 14, 14])
    """

    def __init__(self, before: Level, after: Level) -> None:
        super().__init__()
        self.after = after
        self.whole = (1, 1) in (before[1:], after[1:])
        self.map: nn.Module
        if self.whole:
            self.map = nn.Linear(math.prod(before), math.prod(after))
            nn.init.xavier_normal_(self.map.weight)
            nn.init.zeros_(self.map.bias)
        elif after[1] < before[1]:
            self.map = Convolution(before[0], after[0], 3, stride=2)
        else:
            self.map = nn.Sequential(Convolution(before[0], 4 * after[0], 1), nn.PixelShuffle(2))

    def forward(self, h: Tensor) -> Tensor:
        _, height, width = self.after
        images = self.map(h.flatten(-3)).unflatten(-1, self.after) if self.whole else self.map(h)[..., :height, :width]
        return _channels_last(images)


class Upward(nn.Module):
    """The bottom-up network: from an image to the features of every level, with residual blocks at each.

    >>> upward = Upward((1, 28, 28), [(8, 14, 14), (16, 7, 7), (32, 1, 1)], num_blocks=2)
    >>> [tuple(features.shape) for features in upward(torch.zeros(5, 1, 28, 28))]
    [(5, 8, 14, 14), (5, 16, 7, 7), (5, 32, 1, 1)]
    """

    def __init__(self, image: Level, levels: Sequence[Level], num_blocks: int) -> None:
        super().__init__()
        factor = 1 / math.sqrt(num_blocks * len(levels))
        self.stages = nn.ModuleList()
        for before, level in zip([image, *levels], levels, strict=False):
            blocks = (ResidualBlock(level, factor) for _ in range(num_blocks))
            self.stages.append(nn.Sequential(Resize(before, level), *blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Pixels(nn.Module):
    """The output layer: from the lowest level, as a vector, to the images that the likelihood takes.

    The convolution gives four outputs per pixel, which become four pixels.
    """

    def __init__(self, level: Level, data_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        channels, self.height, self.width = as_image("data_shape", data_shape)
        self.level = level
        self.out_shape = data_shape if num_outputs == 1 else (num_outputs, *data_shape)
        self.output = Convolution(level[0], 4 * num_outputs * channels, 3)

    def forward(self, h: Tensor) -> Tensor:
        pixels = functional.pixel_shuffle(self.output(functional.silu(h.unflatten(-1, self.level))), 2)
        return pixels[..., : self.height, : self.width].reshape(*h.shape[:-1], *self.out_shape)
