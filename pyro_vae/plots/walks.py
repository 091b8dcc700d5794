"""Images along walks through a latent space: from one datum to another, and one unit at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_vae.plots.canvas import (
    Array,
    Drawable,
    Figure,
    as_images,
    check_kind,
    finite,
    hairlines,
    mosaic,
    spread,
    with_minus,
)

__all__ = ["interpolation", "traversal"]


def interpolation(images: Array) -> Figure:
    """Draw walks from one datum to another: a row a walk, from the first datum at the left to the second at the right.

    Parameters
    ----------
    images
        What :func:`pyro_vae.interpolate` returns: images ``(N, S, H, W)`` or ``(N, S, C, H, W)``, of S steps each. 0 is
        black and 1 is white; other values are clipped.

    Raises
    ------
    TypeError
        If ``images`` is neither a tensor nor an array.
    ValueError
        If ``images`` are not images of at least two steps, or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> figure = interpolation(torch.rand(2, 5, 8, 8))
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['first', '0.25', '0.50', '0.75', 'second']
    """
    tiles = _grid("images", images, "(N, S, H, W) or (N, S, C, H, W)")
    num_steps = tiles.shape[1]
    if num_steps < 2:
        raise ValueError(f"images: found {num_steps} step, expected at least 2, the two data")
    figure, axes = mosaic(tiles, margins=(0.0, 0.45))
    hairlines(axes, *tiles.shape[:2])
    shares = np.linspace(0, 1, num_steps)
    labels = ["first", *(f"{share:.2f}" for share in shares[1:-1]), "second"]
    shown = _shown(figure, axes, num_steps)
    axes.set_xticks(shown + 0.5, [labels[i] for i in shown])
    axes.set_xlabel("share of the way from the first code to the second")
    return figure


def traversal(
    images: Drawable, units: Sequence[int] | Array | None = None, values: Sequence[float] | Array | None = None
) -> Figure:
    """Draw what single latent units do to a datum: a row a unit, whose value grows from left to right.

    Parameters
    ----------
    images
        What :func:`pyro_vae.traverse` returns, or images ``(U, V, H, W)`` or ``(U, V, C, H, W)``, of U units at V
        values. 0 is black and 1 is white; other values are clipped.
    units
        The numbers of the units, ``(U,)``, counted from 0.
    values
        Their values, ``(V,)``.

    Raises
    ------
    TypeError
        If ``images`` is neither a tensor nor an array.
    ValueError
        If ``images`` are not images for each unit and value, or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> figure = traversal(torch.rand(2, 3, 8, 8), units=[4, 0], values=[-2.0, 0.0, 2.0])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['z[4]', 'z[0]']
    """
    name = "z"
    if hasattr(images, "units"):
        name = getattr(images, "latent", name)
        images, units, values = images.images, images.units, images.values
    tiles = _grid("images", images, "(U, V, H, W) or (U, V, C, H, W)")
    if units is None or values is None:
        raise ValueError("units: found None, expected the units and their values beside images")
    rows, columns = (finite(n, np.asarray(x) if not isinstance(x, Tensor) else x) for n, x in
                     (("units", units), ("values", values)))  # fmt: skip
    if (rows.shape, columns.shape) != ((tiles.shape[0],), (tiles.shape[1],)):
        found = f"{rows.shape} units and {columns.shape} values for {tiles.shape[0]} rows of {tiles.shape[1]} images"
        raise ValueError(f"units: found {found}, expected one a row, and a value a column")
    figure, axes = mosaic(tiles, margins=(0.7, 0.45))
    hairlines(axes, *tiles.shape[:2])
    axes.set_yticks([len(rows) - i - 0.5 for i in range(len(rows))], [f"{name}[{int(unit)}]" for unit in rows])
    shown = _shown(figure, axes, len(columns))
    axes.set_xticks(shown + 0.5, [with_minus(f"{columns[i] + 0.0:.2g}") for i in shown])
    axes.set_xlabel("value of the unit, all others as the encoder has them")
    return figure


def _grid(name: str, images: Any, expected: str) -> npt.NDArray[Any]:
    """Return images on a grid as ``(rows, columns, H, W, C)``."""
    check_kind(name, images, (Tensor, np.ndarray), "images, as a tensor or an array")
    shape = tuple(images.shape)
    if len(shape) not in (4, 5) or 0 in shape:
        raise ValueError(f"{name}: found shape {shape}, expected images {expected}")
    flat = as_images(name, images.reshape(-1, *shape[2:]))
    return flat.reshape(*shape[:2], *flat.shape[1:])


def _shown(figure: Figure, axes: Any, number: int) -> npt.NDArray[Any]:
    """Return the columns whose labels have room."""
    inches = figure.get_size_inches()[0] * axes.get_position().width
    return spread(number, most=max(2, int(inches / 0.55)))
