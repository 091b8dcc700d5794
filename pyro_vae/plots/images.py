"""Pictures made of images: data beside their reconstructions, samples, rows of a hierarchy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.plots.canvas import (
    Array,
    as_images,
    at_least_one,
    check_kind,
    hairlines,
    mosaic,
)

__all__ = [
    "layers",
    "reconstructions",
    "samples",
]


def reconstructions(x: Array, x_hat: Array, num_pairs: int = 10) -> Figure:
    """Data in the top row, what the model makes of their codes in the bottom row.

    Args:
        x: images, ``(N, H, W)`` or ``(N, C, H, W)`` with ``C`` 1 (gray) or 3 (RGB); 0 is black, 1 is white, and what
            lies outside is clipped.
        x_hat: their reconstructions, of the same shape: usually the mean of ``p(x | z)``.
        num_pairs: how many to show, from the first on; fewer if there are fewer.

    Raises:
        ValueError: ``x`` are not images, the shapes differ, a value is not finite, or ``num_pairs`` is below 1.

    >>> import torch
    >>> figure = reconstructions(torch.rand(32, 1, 8, 8), torch.rand(32, 1, 8, 8), num_pairs=5)
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['data', 'reconstruction']
    """
    for name, images in (("x", x), ("x_hat", x_hat)):
        check_kind(name, images, (Tensor, np.ndarray), "images, as a tensor or an array")
    if tuple(x.shape) != tuple(x_hat.shape):
        raise ValueError(f"x_hat: found shape {tuple(x_hat.shape)}, expected that of x, {tuple(x.shape)}")
    at_least_one("num_pairs", num_pairs)
    top, bottom = as_images("x", x)[:num_pairs], as_images("x_hat", x_hat)[:num_pairs]  # (P, H, W, C)
    figure, axes = mosaic(np.stack((top, bottom)), margins=(1.2, 0.0))
    hairlines(axes, num_rows=2, num_columns=len(top))
    axes.set_yticks([1.5, 0.5], labels=["data", "reconstruction"])
    return figure


def samples(x: Array, num_columns: int = 10) -> Figure:
    """A grid of images, row by row from the top left.

    Args:
        x: images, ``(N, H, W)`` or ``(N, C, H, W)`` with ``C`` 1 (gray) or 3 (RGB); 0 is black, 1 is white, and what
            lies outside is clipped. All ``N`` are drawn.
        num_columns: images a row; the last row may hold fewer.

    Raises:
        ValueError: ``x`` are not images, a value is not finite, or ``num_columns`` is below 1.

    >>> import torch
    >>> samples(torch.rand(23, 8, 8)).axes[0].images[0].get_array().shape  # three rows of ten
    (24, 80)
    """
    at_least_one("num_columns", num_columns)
    images = as_images("x", x)  # (N, H, W, C)
    num_columns = min(num_columns, len(images))
    num_rows = math.ceil(len(images) / num_columns)
    blank = np.ones((num_rows * num_columns - len(images), *images.shape[1:]))
    tiles = np.concatenate((images, blank)).reshape(num_rows, num_columns, *images.shape[1:])
    figure, axes = mosaic(tiles)
    hairlines(axes, num_rows, num_columns)
    return figure


def layers(rows: Mapping[str, Array]) -> Figure:
    """Rows of images with a name each, such as the samples that vary by one layer of a hierarchy.

    Args:
        rows: as many images each, ``(N, H, W)`` or ``(N, C, H, W)``; 0 is black, 1 is white.

    Raises:
        ValueError: there is no row, rows differ in shape, or the entries are not images.

    >>> import torch
    >>> figure = layers({"z1": torch.rand(5, 8, 8), "z2": torch.rand(5, 8, 8)})
    >>> figure.axes[0].images[0].get_array().shape, [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ((16, 40), ['z1', 'z2'])
    """
    check_kind("rows", rows, Mapping, "a mapping from names to images")
    if not rows:
        raise ValueError("rows: found no row, expected one or more")
    images = {name: as_images(f"rows[{name!r}]", x) for name, x in rows.items()}
    shapes = {name: x.shape for name, x in images.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"rows: found the shapes {shapes}, expected the same for each")
    tiles = np.stack(list(images.values()))  # (rows, N, H, W, C)
    figure, axes = mosaic(tiles, margins=(0.4, 0.0))
    hairlines(axes, *tiles.shape[:2])
    axes.set_yticks([len(rows) - i - 0.5 for i in range(len(rows))], list(rows))
    return figure
