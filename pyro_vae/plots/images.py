"""Mosaics of images: data with their reconstructions, samples, and rows of a hierarchy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pyro_vae.plots.canvas import Array, Figure, as_images, at_least_one, check_kind, hairlines, mosaic

__all__ = ["layers", "reconstructions", "samples"]


def reconstructions(x: Array, x_hat: Array, num_pairs: int = 10) -> Figure:
    """Draw data in the top row and their reconstructions in the bottom row.

    Parameters
    ----------
    x
        Images, ``(N, H, W)`` or ``(N, C, H, W)`` with C = 1 (gray) or 3 (RGB). 0 is black and 1 is white; other values
        are clipped.
    x_hat
        The reconstructions, of the same shape, usually the mean of p(x|z).
    num_pairs
        The number of pairs to show, from the first on.

    Raises
    ------
    TypeError
        If ``x`` or ``x_hat`` is neither a tensor nor an array.
    ValueError
        If ``x`` are not images, the shapes differ, a value is not finite, or ``num_pairs`` is below 1.

    Examples
    --------
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
    """Draw a grid of images, row by row from the top left.

    Parameters
    ----------
    x
        Images, ``(N, H, W)`` or ``(N, C, H, W)`` with C = 1 (gray) or 3 (RGB). 0 is black and 1 is white; other values
        are clipped.
    num_columns
        The number of images per row; the last row may be shorter.

    Raises
    ------
    TypeError
        If ``x`` is neither a tensor nor an array.
    ValueError
        If ``x`` are not images, a value is not finite, or ``num_columns`` is below 1.

    Examples
    --------
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
    """Draw named rows of images, such as samples that differ in one layer of a hierarchy.

    Parameters
    ----------
    rows
        Images by name, ``(N, H, W)`` or ``(N, C, H, W)``, of the same shape for each row. 0 is black and 1 is white.

    Raises
    ------
    TypeError
        If ``rows`` is not a mapping, or a row is neither a tensor nor an array.
    ValueError
        If there is no row, the rows differ in shape, or the entries are not images.

    Examples
    --------
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
