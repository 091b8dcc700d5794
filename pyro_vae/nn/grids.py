"""Networks between an image and a grid of vectors, each of which describes one part of the image.

Convolutions halve the image a few times. Each vector of the grid sees its surroundings alone, and all share the same
weights. The vectors are the last dimension, ``(*batch, height, width, D)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional

from pyro_vae.nn.images import as_image
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.residual import Convolution, Level, Pixels, ResidualBlock, Resize, levels_of
from pyro_vae.runtime.arguments import DataShape, PositiveInteger
from pyro_vae.runtime.kinds import Sizes

__all__ = ["Channels", "GridDecoder", "GridEncoder"]

Channels = Annotated[Sequence[int], Sizes("one positive integer or more", count=1)]


def _levels(in_shape: Sequence[int], channels: Sequence[int]) -> list[Level]:
    return levels_of(as_image("data_shape", in_shape), (*map(int, channels), 1))[:-1]  # without the single pixel


class GridEncoder(Rebuildable):
    """A convolutional encoder from an image, ``(*batch, *data_shape)``, to a grid, ``(*batch, h, w, code_dim)``.

    Parameters
    ----------
    data_shape
        The shape of one image, ``(H, W)`` or ``(C, H, W)``.
    code_dim
        The length of each vector.
    channels
        The channels of each level, from the image up; each level halves the image once.

    Raises
    ------
    ValueError
        If ``data_shape`` is not that of an image, or ``channels`` is not a list of positive integers.

    Examples
    --------
    >>> import torch
    >>> GridEncoder((28, 28), 16)(torch.zeros(5, 28, 28)).shape
    torch.Size([5, 7, 7, 16])
    """

    def __init__(self, data_shape: DataShape, code_dim: PositiveInteger, channels: Channels = (32, 64)) -> None:
        super().__init__()
        self.data_shape = tuple(map(int, data_shape))
        levels = _levels(data_shape, channels)
        self.image = as_image("data_shape", data_shape)
        stages: list[nn.Module] = []
        for before, level in zip([self.image, *levels], levels, strict=False):
            stages += [Resize(before, level), ResidualBlock(level)]
        self.stages = nn.Sequential(*stages)
        self.output = Convolution(levels[-1][0], code_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch_shape = x.shape[: x.dim() - len(self.data_shape)]
        h = self.stages(2 * x.reshape(-1, *self.image) - 1)
        return self.output(functional.silu(h)).movedim(-3, -1).unflatten(0, batch_shape)


class GridDecoder(Rebuildable):
    """The mirror of :class:`GridEncoder`: from a flattened grid, ``(*batch, h * w * code_dim)``, to an image.

    Parameters
    ----------
    code_dim, data_shape, channels
        As in :class:`GridEncoder`; the channels too are listed from the image up.
    num_outputs
        The number of images; several have the shape ``(*batch, num_outputs, *data_shape)``.

    Raises
    ------
    ValueError
        As in :class:`GridEncoder`.

    Examples
    --------
    >>> import torch
    >>> GridDecoder(16, (28, 28))(torch.zeros(5, 7 * 7 * 16)).shape
    torch.Size([5, 28, 28])
    """

    def __init__(
        self,
        code_dim: PositiveInteger,
        data_shape: DataShape,
        channels: Channels = (32, 64),
        num_outputs: PositiveInteger = 1,
    ) -> None:
        super().__init__()
        levels = _levels(data_shape, channels)
        self.grid = (*levels[-1][1:], code_dim)
        self.input = Convolution(code_dim, levels[-1][0], 1)
        stages: list[nn.Module] = [ResidualBlock(levels[-1])]
        for before, level in zip(levels[:0:-1], levels[-2::-1], strict=True):
            stages += [Resize(before, level), ResidualBlock(level)]
        self.stages = nn.Sequential(*stages)
        self.pixels = Pixels(levels[0], tuple(map(int, data_shape)), num_outputs)

    def forward(self, z: Tensor) -> Tensor:
        grid = z.reshape(-1, *self.grid).movedim(-1, -3)  # (prod(batch), code_dim, h, w)
        pixels = self.pixels(self.stages(self.input(grid)).flatten(-3))
        return pixels.reshape(*z.shape[:-1], *self.pixels.out_shape)
