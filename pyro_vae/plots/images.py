r"""Pictures of a variational autoencoder: arrays in, a matplotlib ``Figure`` out.

What one looks at, in order: does the bound still rise (:func:`learning_curve`); does a code keep what matters about
its datum (:func:`reconstructions`); does the model dream plausible data (:func:`samples`); which latents does it use at
all (:func:`kl_per_unit`); and, with a latent space of two dimensions, what lies where in it (:func:`latent_space`,
:func:`manifold`).

The last is Figure 4 of [1]. Under the prior :math:`z \sim N(0, I)` the map :math:`u = \Phi(z)` makes each coordinate
uniform, so a regular grid on the unit square, pulled back by the inverse distribution function,

.. math:: z = \Phi^{-1}(u), \qquad u = \left(i + \tfrac12\right) / R, \quad i = 0, \dots, R - 1,

gives every tile the same prior mass: the picture shows the latent plane in the proportions in which the model uses it.

Every function takes numpy arrays or torch tensors, on any device, with or without gradients. None touches pyplot, the
choice of a backend or ``rcParams``: a figure can be drawn inside a training loop, in a thread or without a display,
and is freed with the last reference to it. Save it as ``samples(x).savefig("samples.png", dpi=150)``.

[1] D. P. Kingma and M. Welling. Auto-Encoding Variational Bayes. ICLR 2014. https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

__all__ = [
    "kl_per_unit",
    "latent_grid",
    "latent_space",
    "layers",
    "learning_curve",
    "manifold",
    "reconstructions",
    "samples",
]

Array: TypeAlias = Tensor | npt.NDArray[Any]

# Colours that people with any of the common colour-vision deficiencies tell apart: M. A. Petroff, Accessible Color
# Sequences for Data Visualization, 2021, https://arxiv.org/abs/2107.02270. Classes 10 to 19 repeat them as triangles.
_COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
_MARKERS = ("o", "^")
_TILE_INCHES = 0.6  # the longer side of one image, or less where the mosaic would exceed
_MOSAIC_INCHES = (7.0, 10.0)  # (width, height)
_PAD_INCHES = 0.05
_FONT_POINTS = 10  # of the labels next to a mosaic, whose margins are in inches


def learning_curve(records: Sequence[Mapping[str, Any]], entropy_floor: float | None = None) -> Figure:
    """The bound against the epoch, on training and validation data; larger is better.

    The epoch with the best validation bound is marked. The first epochs of a run often lie hundreds of nats below the
    rest; the lower limit is the 10 % quantile of all epochs but the first, so that they leave the picture instead of
    flattening it. The last epochs are always in it: a run that overfits or diverges looks like one.

    Args:
        records: one mapping an epoch, in order, with ``"epoch"`` and ``"train_bound"`` (nats per datum), and
            ``"valid_bound"`` where the epoch was validated (else ``None`` or missing). Other keys are ignored.
            A bound that is not finite is a gap in its curve.
        entropy_floor: a floor under the negative log-likelihood of every model, in nats per datum, where one is known,
            such as the entropy of the data. No bound on fresh data stays above minus it: a dashed line is drawn there.

    Raises:
        ValueError: there are no records, one lacks a number, or no bound is finite.

    >>> records = [
    ...     {"epoch": 1, "train_bound": -540.0, "valid_bound": -209.0},
    ...     {"epoch": 2, "train_bound": -120.0, "valid_bound": -104.0},
    ... ]
    >>> [text.get_text() for text in learning_curve(records).axes[0].get_legend().get_texts()]
    ['training', 'validation', 'best validation: −104.00 at epoch 2']
    """
    _check("records", records, Sequence, "a list of one mapping an epoch")
    if entropy_floor is not None and not (type(entropy_floor) in (int, float) and math.isfinite(entropy_floor)):
        raise ValueError(f"entropy_floor: found {entropy_floor!r}, expected a finite number")
    if not records:
        raise ValueError("records: found none, expected one mapping an epoch")
    for index, record in enumerate(records):
        _check(f"records[{index}]", record, Mapping, "a mapping")
        missing = [key for key in ("epoch", "train_bound") if record.get(key) is None]
        if missing:
            raise ValueError(f"records[{index}]: found {dict(record)}, expected a number under {' and '.join(missing)}")
    epochs = np.array([record["epoch"] for record in records])  # (T,)
    train = np.array([record["train_bound"] for record in records], dtype=float)  # (T,)
    was_validated = np.array([record.get("valid_bound") is not None for record in records])  # (T,)
    valid = np.array([record.get("valid_bound") for record in records], dtype=float)  # (T,), NaN where None
    if not np.isfinite([train, valid]).any():
        raise ValueError(f"records: found no finite bound in {len(records)} epochs, expected at least one")

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    # A single epoch is a point: a line alone would not show it.
    style: dict[str, Any] = {"linewidth": 1.2, "marker": "o" if len(records) <= 20 else "", "markersize": 3}
    axes.plot(epochs, train, color=_COLORS[0], label="training", **style)
    if was_validated.any():  # the line joins the validated epochs across those that were not
        x, y = epochs[was_validated], valid[was_validated]
        axes.plot(x, y, color=_COLORS[6], label="validation", **style)
    if np.isfinite(valid).any():
        losses = [record.get("valid_loss") for record in records]  # another than minus the bound where it is annealed
        score = valid if None in losses else -np.array(losses, dtype=float)
        best = int(np.argmax(np.where(np.isfinite(valid), score, -np.inf)))
        label = f"best validation: {_minus(f'{valid[best]:.2f}')} at epoch {epochs[best]}"
        axes.plot(epochs[best], valid[best], "*", color="black", markersize=9, zorder=3, label=label)
    if entropy_floor is not None:
        label = f"ceiling (entropy floor): {_minus(f'{-entropy_floor:.2f}')}"
        axes.axhline(-entropy_floor, color="black", linestyle="--", linewidth=1, label=label)

    axes.set_ylim(*_limits(train, valid, [] if entropy_floor is None else [-entropy_floor]))
    if len(records) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound (nats per datum)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def reconstructions(x: Array, x_hat: Array, num_pairs: int = 10) -> Figure:
    """Data in the top row, what the model makes of their codes in the bottom row.

    Args:
        x: images, ``(N, H, W)`` or ``(N, C, H, W)`` with ``C`` 1 (gray) or 3 (RGB); 0 is black, 1 is white, and what
            lies outside is clipped.
        x_hat: their reconstructions, of the same shape: usually the mean of ``p(x | z)``.
        num_pairs: how many to show, from the first on; fewer if there are fewer.

    Raises:
        ValueError: ``x`` are not images, the shapes differ, a value is not finite, or ``num_pairs`` is below 1.

    >>> figure = reconstructions(torch.rand(32, 1, 8, 8), torch.rand(32, 1, 8, 8), num_pairs=5)
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['data', 'reconstruction']
    """
    for name, images in (("x", x), ("x_hat", x_hat)):
        _check(name, images, (Tensor, np.ndarray), "images, as a tensor or an array")
    if tuple(x.shape) != tuple(x_hat.shape):
        raise ValueError(f"x_hat: found shape {tuple(x_hat.shape)}, expected that of x, {tuple(x.shape)}")
    _at_least_one("num_pairs", num_pairs)
    top, bottom = _images("x", x)[:num_pairs], _images("x_hat", x_hat)[:num_pairs]  # (P, H, W, C)
    figure, axes = _mosaic(np.stack((top, bottom)), margins=(1.2, 0.0))
    _hairlines(axes, num_rows=2, num_columns=len(top))
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

    >>> samples(torch.rand(23, 8, 8)).axes[0].images[0].get_array().shape  # three rows of ten
    (24, 80)
    """
    _at_least_one("num_columns", num_columns)
    images = _images("x", x)  # (N, H, W, C)
    num_columns = min(num_columns, len(images))
    num_rows = math.ceil(len(images) / num_columns)
    blank = np.ones((num_rows * num_columns - len(images), *images.shape[1:]))
    tiles = np.concatenate((images, blank)).reshape(num_rows, num_columns, *images.shape[1:])
    figure, axes = _mosaic(tiles)
    _hairlines(axes, num_rows, num_columns)
    return figure


def layers(rows: Mapping[str, Array]) -> Figure:
    """Rows of images with a name each, such as the samples that vary by one layer of a hierarchy.

    Args:
        rows: as many images each, ``(N, H, W)`` or ``(N, C, H, W)``; 0 is black, 1 is white.

    Raises:
        ValueError: there is no row, rows differ in shape, or the entries are not images.

    >>> figure = layers({"z1": torch.rand(5, 8, 8), "z2": torch.rand(5, 8, 8)})
    >>> figure.axes[0].images[0].get_array().shape, [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ((16, 40), ['z1', 'z2'])
    """
    _check("rows", rows, Mapping, "a mapping from names to images")
    if not rows:
        raise ValueError("rows: found no row, expected one or more")
    images = {name: _images(f"rows[{name!r}]", x) for name, x in rows.items()}
    shapes = {name: x.shape for name, x in images.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"rows: found the shapes {shapes}, expected the same for each")
    tiles = np.stack(list(images.values()))  # (rows, N, H, W, C)
    figure, axes = _mosaic(tiles, margins=(0.4, 0.0))
    _hairlines(axes, *tiles.shape[:2])
    axes.set_yticks([len(rows) - i - 0.5 for i in range(len(rows))], list(rows))
    return figure


def kl_per_unit(kl: Mapping[str, Array], active: Mapping[str, Array] | None = None) -> Figure:
    """The KL of each latent unit, largest first, one panel a layer.

    The panels stand in the order of the mapping, from the top down. A model draws its top layer first, so for
    ``diagnose(...).kl_per_unit`` the layer next to the data is at the bottom. Each panel has its own scales: a layer
    that has collapsed shows by the numbers on its axis and by the total in its title.

    Args:
        kl: mean KL of the units of each site, ``(D,)``, in nats.
        active: which of them are active, ``(D,)`` booleans a site. Bars are coloured by it; those of a site that
            is missing here are gray.

    Raises:
        ValueError: there is no site, ``kl`` or ``active`` of a site are not ``D`` numbers, or ``active`` names a site
            that ``kl`` lacks.

    >>> figure = kl_per_unit({"z2": [0.01, 0.02], "z1": [0.5, 3.0, 1.5]})
    >>> [axes.get_title() for axes in figure.axes]
    ['z2: 0.03 nats in 2 units', 'z1: 5.00 nats in 3 units']
    """
    _check("kl", kl, Mapping, "a mapping from sites to numbers")
    if active is not None:
        _check("active", active, Mapping, "a mapping from sites to booleans")
    if not kl:
        raise ValueError("kl: found no site, expected one or more")
    active = {} if active is None else active
    if unknown := [name for name in active if name not in kl]:
        raise ValueError(f"active: found the sites {unknown}, expected none but those of kl, {list(kl)}")
    figure = Figure(figsize=(6.4, 0.6 + 2.2 * len(kl)), layout="constrained")
    panels = figure.subplots(len(kl), squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, kl.items(), strict=True):
        nats = _finite(f"kl[{name!r}]", values)
        if nats.ndim != 1 or len(nats) == 0:
            raise ValueError(f"kl[{name!r}]: found shape {nats.shape}, expected (D,) with D at least 1")
        order = np.argsort(-nats, kind="stable")
        position = np.arange(1, len(nats) + 1)
        # Bars that touch from a hundred on, or the gaps between them would be thinner than a pixel.
        width = 0.8 if len(nats) < 100 else 1.0
        groups = [("units", np.ones(len(nats), dtype=bool), _COLORS[8] if active else _COLORS[0])]
        title = f"{name}: {_minus(f'{nats.sum():.2f}')} nats in {len(nats)} unit{'s' * (len(nats) > 1)}"
        if name in active:
            on = _finite(f"active[{name!r}]", active[name]).astype(bool)
            if on.shape != nats.shape:
                raise ValueError(f"active[{name!r}]: found shape {on.shape}, expected that of kl, {nats.shape}")
            groups = [("active", on[order], _COLORS[0]), ("not active", ~on[order], _COLORS[6])]
            title += f", {on.sum()} active"
        for label, chosen, color in groups:
            if chosen.any():
                axes.bar(position[chosen], nats[order][chosen], width, color=color, label=label)
        if name in active:
            axes.legend(frameon=False, loc="upper right")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(title, fontsize=_FONT_POINTS)
        axes.set_xlim(0.25, max(len(nats), 4) + 0.75)  # a single bar does not fill the panel
        if len(nats) <= 10:
            axes.set_xticks(position)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        axes.set_ylabel("KL (nats)")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    panels[-1].set_xlabel("unit, by its KL")
    return figure


def latent_grid(num_rows: int) -> tuple[Tensor, Tensor]:
    r"""A square grid of latent points, equally spaced in the prior probability :math:`N(0, I)` of each coordinate.

    Its pictures are drawn by :func:`manifold`:
    ``z, coordinates = latent_grid(20); manifold(vae.likelihood(z).mean, coordinates)``.

    Args:
        num_rows: points a side, ``R``.

    Returns:
        ``z``, ``(R * R, 2)``, with ``z[i * R + j] == (coordinates[j], coordinates[i])``: the first latent coordinate
        runs fastest; and ``coordinates``, ``(R,)``, the normal quantiles at ``(i + 0.5) / R``, increasing. Both in
        torch's default dtype, on the CPU.

    Raises:
        ValueError: ``num_rows`` is below 1.

    >>> z, coordinates = latent_grid(2)
    >>> coordinates
    tensor([-0.6745,  0.6745])
    >>> z[1]  # z1 has moved to the right, z2 is still at the bottom
    tensor([ 0.6745, -0.6745])
    """
    _at_least_one("num_rows", num_rows)
    u = (torch.arange(num_rows, dtype=torch.float64) + 0.5) / num_rows  # (R,)
    coordinates = torch.special.ndtri(u).to(torch.get_default_dtype())  # (R,)
    z2, z1 = torch.meshgrid(coordinates, coordinates, indexing="ij")  # (R, R)
    return torch.stack((z1, z2), dim=-1).reshape(-1, 2), coordinates


def manifold(images: Array, coordinates: Array) -> Figure:
    """The two-dimensional latent plane, each tile the image that its point decodes to: Figure 4 of the AEVB paper.

    The first latent coordinate, ``z1``, grows to the right and the second, ``z2``, upwards. In the order of
    :func:`latent_grid`, ``images[i * R + j]`` is decoded from ``(z1, z2) = (coordinates[j], coordinates[i])`` and is
    the tile in column ``j`` from the left and row ``i`` *from the bottom*: ``images[0]`` is at the bottom left,
    ``images[R - 1]`` at the bottom right. The images themselves stay upright.

    Args:
        images: ``(R * R, H, W)`` or ``(R * R, C, H, W)`` with ``C`` 1 (gray) or 3 (RGB); 0 is black, 1 is white, and
            what lies outside is clipped.
        coordinates: ``(R,)``, the latent values that label both axes.

    Raises:
        ValueError: ``coordinates`` are not a row of numbers, ``images`` are not ``R * R`` images, or a value is not
            finite.

    >>> z, coordinates = latent_grid(3)
    >>> figure = manifold(torch.rand(len(z), 1, 8, 8), coordinates)
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['−0.97', '0.00', '0.97']
    """
    values = _finite("coordinates", coordinates)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"coordinates: found shape {values.shape}, expected (R,) with R at least 1")
    R = len(values)
    tiles = _images("images", images)  # (R * R, H, W, C)
    if len(tiles) != R * R:
        raise ValueError(f"images: found {len(tiles)}, expected {R * R}, one for each pair of {R} coordinates")
    tiles = tiles.reshape(R, R, *tiles.shape[1:])[::-1]  # row 0 of an image is its top, row 0 of the plane its bottom
    figure, axes = _mosaic(tiles, margins=(0.75, 0.4))
    for axis, inches in zip((axes.xaxis, axes.yaxis), figure.get_size_inches() * axes.get_position().size, strict=True):
        shown = _spread(R, most=min(7, int(inches / 0.5)))
        labels = [_minus(f"{value:.2f}") for value in values[shown].round(2) + 0.0]  # -0.0 + 0.0 is 0.0
        axis.set_ticks(shown + 0.5, labels=labels)
    axes.set_xlabel("$z_1$", fontsize=_FONT_POINTS)
    axes.set_ylabel("$z_2$", fontsize=_FONT_POINTS)
    return figure


def latent_space(z: Array, labels: Array | None = None) -> Figure:
    """Where the data lie in a two-dimensional latent space: a point for each posterior mean.

    Args:
        z: posterior means, ``(N, 2)``.
        labels: ``(N,)``. Up to 20 different integers are classes, each with its colour in a legend; more of them, or
            real numbers, are a scale with a colour bar.

    Raises:
        ValueError: ``z`` is not ``(N, 2)``, ``labels`` are not ``N`` numbers, or a value is not finite.

    >>> figure = latent_space(torch.randn(100, 2), labels=torch.arange(100) % 3)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['0', '1', '2']
    """
    points = _finite("z", z)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"z: found shape {points.shape}, expected (N, 2) with N at least 1")
    z1, z2 = points.T
    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(20_000 / len(points), 3, 25))  # points^2: ten thousand data still leave gaps
    if labels is None:
        axes.scatter(z1, z2, s=size, color=_COLORS[0], linewidths=0)
    else:
        values = _finite("labels", labels)
        if values.shape != (len(points),):
            raise ValueError(f"labels: found shape {values.shape}, expected {(len(points),)}, one for each z")
        classes, indices = np.unique(values, return_inverse=True)  # (C,), (N,)
        if values.dtype.kind in "biu" and len(classes) <= len(_COLORS) * len(_MARKERS):
            _scatter_classes(axes, points, classes, indices, size)
        else:
            figure.colorbar(axes.scatter(z1, z2, s=size, c=values, cmap="viridis", linewidths=0), label="label")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _limits(train: npt.NDArray[Any], valid: npt.NDArray[Any], also: list[float]) -> tuple[float, float]:
    """Limits of the bound for the eye, see :func:`learning_curve`; ``also`` are values to keep in the picture."""
    curves = [curve[np.isfinite(curve)] for curve in (train, valid)]  # (<= T,)
    everything = np.concatenate(curves)
    later = np.concatenate([curve[1:] for curve in curves])
    low = np.quantile(later, 0.1) if len(later) >= 4 else everything.min()  # of so few, none is an outlier
    low = min([low, *also, *(curve[-1] for curve in curves if len(curve))])
    high = max([everything.max(), *also])
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _scatter_classes(
    axes: Axes, points: npt.NDArray[Any], classes: npt.NDArray[Any], indices: npt.NDArray[Any], size: float
) -> None:
    """Scatter ``points`` coloured by ``classes[indices]``, in the order given: no class is painted over another."""
    colors = np.array(_COLORS)[indices % len(_COLORS)]  # (N,)
    for number, marker in enumerate(_MARKERS):
        chosen = indices // len(_COLORS) == number
        if chosen.any():
            z1, z2 = points[chosen].T
            axes.scatter(z1, z2, s=size, color=colors[chosen], marker=marker, linewidths=0)
    handles = [
        Line2D([], [], linestyle="", color=_COLORS[i % len(_COLORS)], marker=_MARKERS[i // len(_COLORS)], label=str(c))
        for i, c in enumerate(classes)
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handletextpad=0.1)


def _mosaic(tiles: npt.NDArray[Any], margins: tuple[float, float] = (0.0, 0.0)) -> tuple[Figure, Axes]:
    """Draw ``tiles``, ``(rows, columns, H, W, C)``, as one image with each tile a unit square of the data coordinates.

    ``margins`` are the inches that the caller's labels need on the left and at the bottom.
    """
    num_rows, num_columns, height, width, channels = tiles.shape
    image = tiles.swapaxes(1, 2).reshape(num_rows * height, num_columns * width, channels)
    inches = np.array([num_columns * width, num_rows * height]) * _TILE_INCHES / max(height, width)
    inches *= min(1.0, *(_MOSAIC_INCHES / inches))
    size = inches + margins + 2 * _PAD_INCHES
    figure = Figure(figsize=tuple(size))
    # Placed exactly, for square pixels need a box of just this shape: an automatic layout would misplace the labels.
    axes = figure.add_axes((*((_PAD_INCHES + np.array(margins)) / size), *(inches / size)))
    image = image[..., 0] if channels == 1 else image
    extent, aspect = (0, num_columns, 0, num_rows), height / width
    axes.imshow(
        image, "gray", vmin=0, vmax=1, interpolation="antialiased", origin="upper", extent=extent, aspect=aspect
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=_FONT_POINTS)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure, axes


def _spread(number: int, most: int) -> npt.NDArray[Any]:
    """At most ``most`` of the indices below ``number``, symmetric, always with both ends."""
    if number <= most:
        return np.arange(number)
    symmetric = most - (most - number) % 2  # as even or odd as number
    return np.linspace(0, number - 1, max(2, symmetric)).round().astype(int)


def _hairlines(axes: Axes, num_rows: int, num_columns: int) -> None:
    """Part the tiles of a mosaic by lines half a point wide, however many pixels an image has."""
    axes.vlines(range(1, num_columns), 0, num_rows, color="white", linewidth=0.5)
    axes.hlines(range(1, num_rows), 0, num_columns, color="white", linewidth=0.5)


def _images(name: str, x: Array) -> npt.NDArray[Any]:
    """``(N, H, W)`` or ``(N, C, H, W)`` -> ``(N, H, W, C)``, clipped to [0, 1]."""
    _check(name, x, (Tensor, np.ndarray), "images, as a tensor or an array")
    shape = tuple(x.shape)
    if not (len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, 3))) or 0 in shape:
        raise ValueError(f"{name}: found shape {shape}, expected images (N, H, W), (N, 1, H, W) or (N, 3, H, W)")
    values = _finite(name, x)
    if values.dtype.kind in "iu" and values.max() > 1:
        raise ValueError(f"{name}: found integers up to {values.max()}, expected values in [0, 1]: divide them first")
    channels_last = values[..., None] if len(shape) == 3 else np.moveaxis(values, 1, -1)
    return channels_last.clip(0, 1).astype(np.float32)


def _finite(name: str, values: Array) -> npt.NDArray[Any]:
    """A numpy view or copy of an array from anywhere, whose values are all numbers."""
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.is_meta:
            raise TypeError(f"{name}: found a tensor that is sparse or on meta, expected one with its values")
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    try:
        values = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, say
        raise ValueError(f"{name}: found {type(values).__name__}, expected numbers in an array: {error}") from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name}: found dtype {values.dtype}, expected real numbers")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: found {(~np.isfinite(values)).sum()} of {values.size} values not finite, expected 0")
    return values


def _at_least_one(name: str, number: Any) -> None:
    if type(number) is not int or not 1 <= number < 2**31:
        raise ValueError(f"{name}: found {number!r}, expected at least 1, as an integer, and less than 2**31")


def _check(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, kind) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: found {type(value).__name__}, expected {expected}")


def _minus(number: str) -> str:
    """``number`` with the minus sign that matplotlib's own tick labels have."""
    return number.replace("-", "\N{MINUS SIGN}")
