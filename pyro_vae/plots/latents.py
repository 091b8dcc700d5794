r"""Pictures of a latent space.

:func:`manifold` is Figure 4 of [1]. Under the prior :math:`z \sim N(0, I)` each coordinate of :math:`u = \Phi(z)` is
uniform. So a regular grid on the unit square, mapped back by the inverse distribution function,

.. math:: z = \Phi^{-1}(u), \qquad u = \left(i + \tfrac12\right) / R, \quad i = 0, \dots, R - 1,

gives every tile the same prior mass. The picture shows the latent plane in the proportions that the prior gives it.

[1] D. P. Kingma and M. Welling. Auto-Encoding Variational Bayes. ICLR 2014. https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.plots.canvas import (
    COLORS,
    FONT_POINTS,
    Array,
    Figure,
    as_images,
    at_least_one,
    finite,
    mosaic,
    spread,
    with_minus,
)
from pyro_vae.plots.classes import MOST_CLASSES, scatter_classes
from pyro_vae.plots.projections import Projection, projected

__all__ = ["latent_grid", "latent_space", "manifold"]


def latent_grid(num_rows: int) -> tuple[Tensor, Tensor]:
    r"""Return a square grid of latent points with equal prior mass between neighbours, for :func:`manifold`.

    .. math:: z_{iR + j} = (c_j, c_i), \qquad c_i = \Phi^{-1}\bigl((i + \tfrac12) / R\bigr)

    Draw it by ``z, coordinates = latent_grid(20); manifold(vae.likelihood(z).mean, coordinates)``.

    Parameters
    ----------
    num_rows
        R, the number of points per side.

    Returns
    -------
    z
        The points, ``(R * R, 2)``, whose first coordinate runs fastest, in torch's default dtype, on the CPU.
    coordinates
        The coordinates c of the grid, ``(R,)``, increasing.

    Raises
    ------
    ValueError
        If ``num_rows`` is below 1.

    Examples
    --------
    >>> z, coordinates = latent_grid(2)
    >>> coordinates
    tensor([-0.6745,  0.6745])
    >>> z[1]  # z1 has moved to the right, z2 is still at the bottom
    tensor([ 0.6745, -0.6745])
    """
    at_least_one("num_rows", num_rows)
    u = (torch.arange(num_rows, dtype=torch.float64) + 0.5) / num_rows  # (R,)
    coordinates = torch.special.ndtri(u).to(torch.get_default_dtype())  # (R,)
    z2, z1 = torch.meshgrid(coordinates, coordinates, indexing="ij")  # (R, R)
    return torch.stack((z1, z2), dim=-1).reshape(-1, 2), coordinates


def manifold(images: Array, coordinates: Array) -> Figure:
    """Draw a two-dimensional latent plane as the images decoded from a grid, as in Figure 4 of the AEVB paper.

    The first latent coordinate, ``z1``, grows to the right and the second, ``z2``, upwards. As in :func:`latent_grid`,
    ``images[i * R + j]`` is decoded from ``(z1, z2) = (coordinates[j], coordinates[i])``. It is drawn upright in column
    ``j`` from the left and row ``i`` *from the bottom*, so ``images[0]`` is at the bottom left.

    Parameters
    ----------
    images
        Images, ``(R * R, H, W)`` or ``(R * R, C, H, W)`` with C = 1 (gray) or 3 (RGB). 0 is black and 1 is white; other
        values are clipped.
    coordinates
        The latent values, ``(R,)``, that label both axes.

    Raises
    ------
    TypeError
        If ``images`` is neither a tensor nor an array.
    ValueError
        If ``coordinates`` are not R numbers, ``images`` are not R * R images, or a value is not finite.

    Examples
    --------
    >>> z, coordinates = latent_grid(3)
    >>> figure = manifold(torch.rand(len(z), 1, 8, 8), coordinates)
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['−0.97', '0.00', '0.97']
    """
    values = finite("coordinates", coordinates)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"coordinates: found shape {values.shape}, expected (R,) with R at least 1")
    R = len(values)
    tiles = as_images("images", images)  # (R * R, H, W, C)
    if len(tiles) != R * R:
        raise ValueError(f"images: found {len(tiles)}, expected {R * R}, one for each pair of {R} coordinates")
    tiles = tiles.reshape(R, R, *tiles.shape[1:])[::-1]  # row 0 of an image is its top, row 0 of the plane its bottom
    figure, axes = mosaic(tiles, margins=(0.75, 0.4))
    for axis, inches in zip((axes.xaxis, axes.yaxis), figure.get_size_inches() * axes.get_position().size, strict=True):
        shown = spread(R, most=min(7, int(inches / 0.5)))
        labels = [with_minus(f"{value:.2f}") for value in values[shown].round(2) + 0.0]  # -0.0 + 0.0 is 0.0
        axis.set_ticks(shown + 0.5, labels=labels)
    axes.set_xlabel("$z_1$", fontsize=FONT_POINTS)
    axes.set_ylabel("$z_2$", fontsize=FONT_POINTS)
    return figure


def latent_space(
    z: Array,
    labels: Array | None = None,
    projection: Projection = "active",
    *,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Draw a point for the posterior mean of each datum, in a latent space of any number of dimensions.

    Two dimensions are drawn as they are. Of more, two are chosen as ``projection`` says, and the axes tell which. A
    single one is drawn against the share of the data that lie below.

    Parameters
    ----------
    z
        The posterior means, ``(N, D)``, as ``vae.encode(x)`` returns them.
    labels
        The labels, ``(N,)``. Up to 20 different integers are classes, each with a marker, a colour and its name at its
        median. More of them, or real numbers, are a scale with a colour bar.
    projection
        ``"active"``: the two units whose means vary most over the data. ``"pca"``: the first two principal components.
    classes
        The names of the classes 0, 1, ..., such as those of :func:`pyro_vae.data.load`. By default the integers.

    Raises
    ------
    ValueError
        If ``z`` is not ``(N, D)``, ``labels`` are not N numbers or have no name in ``classes``, a value is not finite,
        or ``projection`` is unknown.

    Examples
    --------
    >>> figure = latent_space(torch.randn(100, 2), labels=torch.arange(100) % 3)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['0', '1', '2']
    >>> z = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 0.1, 2.0, 0.1])
    >>> latent_space(z).axes[0].get_ylabel()
    'z[1], the second most active (variance 0.93)'
    """
    means = finite("z", z)
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(f"z: found shape {means.shape}, expected (N, D) with N and D at least 1")
    points, names_of_axes = projected(means, projection)
    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(20_000 / len(points), 3, 25))  # in points², so that ten thousand data still leave gaps
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=COLORS[0], linewidths=0)
    else:
        values = finite("labels", labels)
        if values.shape != (len(points),):
            raise ValueError(f"labels: found shape {values.shape}, expected {(len(points),)}, one for each z")
        found, indices = np.unique(values, return_inverse=True)  # (C,), (N,)
        if values.dtype.kind in "biu" and len(found) <= MOST_CLASSES:
            scatter_classes(axes, points, indices, _names(found, classes), size)
        else:
            figure.colorbar(
                axes.scatter(points[:, 0], points[:, 1], s=size, c=values, cmap="viridis", linewidths=0), label="label"
            )
    if means.shape[1] > 1:
        axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(names_of_axes[0])
    axes.set_ylabel(names_of_axes[1])
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _names(found: npt.NDArray[Any], classes: Sequence[str] | None) -> list[str]:
    """Return the names of the integers that were found among the labels."""
    if classes is None:
        return [str(each) for each in found]
    if found.min() < 0 or found.max() >= len(classes):
        raise ValueError(f"classes: found {len(classes)}, expected a name for each of the labels {found.tolist()}")
    return [str(classes[int(each)]) for each in found]
