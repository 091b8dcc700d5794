"""Convolutional networks from an image to a vector, and from a vector to an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.nn.layers import ACTIVATIONS, Activation, Shape, Size, as_shape, check_trailing, initialise
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import DataShape, Widths

__all__ = ["ImageDecoder", "ImageEncoder", "as_image"]


def as_image(argument: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape ``(C, H, W)`` of an image given as ``(H, W)`` or ``(C, H, W)``."""
    sizes = as_shape(shape)
    if len(sizes) not in (2, 3):
        raise ValueError(f"{argument}: found {sizes}, expected an image, (height, width) or (channels, height, width)")
    channels, height, width = (1, *sizes) if len(sizes) == 2 else sizes
    return channels, height, width


def _halved(size: int) -> int:
    return (size + 1) // 2  # what a convolution with kernel 3, stride 2 and padding 1 leaves


class ImageEncoder(Rebuildable):
    """Convolutions and an affine map, from ``(*batch, *in_shape)`` to ``(*batch, *out_shape)``.

    Parameters
    ----------
    in_shape
        The shape of one image, ``(H, W)`` or ``(C, H, W)``, of any height and width.
    out_shape
        The shape of one output.
    channels
        The channels of each convolution (kernel 3, stride 2), which halves the image.
    activation
        The name of the activation after each convolution.

    Raises
    ------
    ValueError
        If ``in_shape`` is not that of an image, or the input has another shape.

    Examples
    --------
    >>> import torch
    >>> ImageEncoder((28, 20), (2, 10))(torch.zeros(4, 28, 20)).shape
    torch.Size([4, 2, 10])
    """

    def __init__(
        self,
        in_shape: DataShape,
        out_shape: Shape,
        channels: Widths = (32, 64),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), as_shape(out_shape)
        self.image_shape = in_channels, height, width = as_image("in_shape", in_shape)
        stages: list[nn.Module] = []
        for out_channels in as_shape(channels):
            stages += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
            initialise(stages[-2], activation)  # type: ignore[arg-type]
            in_channels, height, width = out_channels, _halved(height), _halved(width)
        self.stages = nn.Sequential(*stages)
        self.output = nn.Linear(in_channels * height * width, math.prod(self.out_shape))
        initialise(self.output, None)

    def forward(self, x: Tensor) -> Tensor:
        check_trailing(self, x, self.in_shape)
        batch_shape = x.shape[: x.dim() - len(self.in_shape)]
        h = self.stages(x.reshape(-1, *self.image_shape))  # (prod(batch), channels[-1], h, w)
        return self.output(h.flatten(1)).reshape(*batch_shape, *self.out_shape)


class ImageDecoder(Rebuildable):
    """The mirror of :class:`ImageEncoder`: ``(*batch, in_features)`` to ``(*batch, *out_shape)``.

    Parameters
    ----------
    in_features
        The length of the latent vector.
    out_shape
        The shape of one image, ``(H, W)`` or ``(C, H, W)``.
    channels
        The channels of each transposed convolution, from the smallest image up.
    activation
        The name of the activation before each transposed convolution.
    num_outputs
        The number of images; several have the shape ``(*batch, num_outputs, *out_shape)``.

    Raises
    ------
    ValueError
        If ``out_shape`` is not that of an image, ``channels`` is empty, or the input has another length.

    Examples
    --------
    >>> import torch
    >>> ImageDecoder(10, (28, 20), num_outputs=2)(torch.zeros(5, 4, 10)).shape
    torch.Size([5, 4, 2, 28, 20])
    """

    def __init__(
        self,
        in_features: Size,
        out_shape: DataShape,
        channels: Widths = (64, 32),
        activation: Activation = "relu",
        num_outputs: Size = 1,
    ) -> None:
        super().__init__()
        self.in_shape = (in_features,)
        image = as_shape(out_shape)
        image_channels, height, width = as_image("out_shape", out_shape)
        self.out_shape = image if num_outputs == 1 else (num_outputs, *image)
        channels = as_shape(channels)
        if not channels:
            raise ValueError("channels: found no stage, expected one or more")
        sizes = [(height, width)]
        for _ in channels:
            sizes.append((_halved(sizes[-1][0]), _halved(sizes[-1][1])))
        sizes.reverse()
        self.small_shape = (channels[0], *sizes[0])
        self.input = nn.Linear(in_features, math.prod(self.small_shape))
        initialise(self.input, activation)
        stages: list[nn.Module] = [ACTIVATIONS[activation]()]
        for i, (before, after) in enumerate(pairwise(sizes)):
            last = i == len(channels) - 1
            out_channels = num_outputs * image_channels if last else channels[i + 1]
            odd = (after[0] - (2 * before[0] - 1), after[1] - (2 * before[1] - 1))
            stages.append(nn.ConvTranspose2d(channels[i], out_channels, 3, stride=2, padding=1, output_padding=odd))
            initialise(stages[-1], None if last else activation)  # type: ignore[arg-type]
            stages += [] if last else [ACTIVATIONS[activation]()]
        self.stages = nn.Sequential(*stages)

    def forward(self, z: Tensor) -> Tensor:
        check_trailing(self, z, self.in_shape)
        h = self.input(z).reshape(-1, *self.small_shape)  # (prod(batch), channels[0], h, w)
        return self.stages(h).reshape(*z.shape[:-1], *self.out_shape)
