"""Parts that the pictures share: figures that show themselves, a mosaic, colours, and checks of arguments."""

from __future__ import annotations

from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import figure as matplotlib_figure
from matplotlib.axes import Axes
from torch import Tensor

Array: TypeAlias = Tensor | npt.NDArray[Any]
Drawable: TypeAlias = Any  # arrays, or what a function of the package returns: this room imports none of its classes

# Colours that people with the common colour-vision deficiencies can tell apart: M. A. Petroff, Accessible Color
# Sequences for Data Visualization, 2021, https://arxiv.org/abs/2107.02270.
COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "*")  # one a class, so that no class is told by colour alone
FONT_POINTS = 10  # of the labels beside a mosaic, whose margins are in inches

_TILE_INCHES = 0.6  # the longer side of one image; less if the mosaic would become too large
_MOSAIC_INCHES = (7.0, 10.0)  # (width, height)
_PAD_INCHES = 0.05


class Figure(matplotlib_figure.Figure):
    """A figure of matplotlib that shows itself in a notebook, without pyplot, a magic command or a back end.

    A figure of pyplot is shown by the back end that pyplot has chosen, and is kept until it is closed. This one is
    drawn when a notebook asks for its picture, and is freed with the last reference to it.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the picture at twice the size that it is shown at, for screens of fine pixels, and that size."""
        file = BytesIO()
        self.savefig(file, format="png", dpi=2 * self.dpi)
        width, height = (round(inches * self.dpi) for inches in self.get_size_inches())
        return file.getvalue(), {"width": width, "height": height}


def mosaic(tiles: npt.NDArray[Any], margins: tuple[float, float] = (0.0, 0.0)) -> tuple[Figure, Axes]:
    """Draw ``tiles``, ``(rows, columns, H, W, C)``, as one image in which each tile is a unit square.

    ``margins`` are the inches that the caller's labels need on the left and at the bottom.
    """
    num_rows, num_columns, height, width, channels = tiles.shape
    image = tiles.swapaxes(1, 2).reshape(num_rows * height, num_columns * width, channels)
    inches = np.array([num_columns * width, num_rows * height]) * _TILE_INCHES / max(height, width)
    inches *= min(1.0, *(_MOSAIC_INCHES / inches))
    size = inches + margins + 2 * _PAD_INCHES
    figure = Figure(figsize=tuple(size))
    # Square pixels need a box of exactly this shape, beside which an automatic layout would misplace the labels.
    axes = figure.add_axes((*((_PAD_INCHES + np.array(margins)) / size), *(inches / size)))
    image = image[..., 0] if channels == 1 else image
    extent, aspect = (0, num_columns, 0, num_rows), height / width
    axes.imshow(
        image, "gray", vmin=0, vmax=1, interpolation="antialiased", origin="upper", extent=extent, aspect=aspect
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=FONT_POINTS)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure, axes


def spread(number: int, most: int) -> npt.NDArray[Any]:
    """Return at most ``most`` indices below ``number``, spread symmetrically and including both ends."""
    if number <= most:
        return np.arange(number)
    symmetric = most - (most - number) % 2  # as even or odd as number
    return np.linspace(0, number - 1, max(2, symmetric)).round().astype(int)


def hairlines(axes: Axes, num_rows: int, num_columns: int) -> None:
    """Separate the tiles of a mosaic by lines that are half a point wide for images of any size."""
    axes.vlines(range(1, num_columns), 0, num_rows, color="white", linewidth=0.5)
    axes.hlines(range(1, num_rows), 0, num_columns, color="white", linewidth=0.5)


def as_images(name: str, x: Array) -> npt.NDArray[Any]:
    """Return images ``(N, H, W)`` or ``(N, C, H, W)`` as ``(N, H, W, C)``, clipped to [0, 1]."""
    check_kind(name, x, (Tensor, np.ndarray), "images, as a tensor or an array")
    shape = tuple(x.shape)
    if not (len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, 3))) or 0 in shape:
        raise ValueError(f"{name}: found shape {shape}, expected images (N, H, W), (N, 1, H, W) or (N, 3, H, W)")
    values = finite(name, x)
    if values.dtype.kind in "iu" and values.max() > 1:
        raise ValueError(f"{name}: found integers up to {values.max()}, expected values in [0, 1]: divide them first")
    channels_last = values[..., None] if len(shape) == 3 else np.moveaxis(values, 1, -1)
    return channels_last.clip(0, 1).astype(np.float32)


def finite(name: str, values: Array) -> npt.NDArray[Any]:
    """Return an array or tensor as a NumPy array of finite real numbers."""
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.is_meta:
            raise TypeError(f"{name}: found a tensor that is sparse or on meta, expected one with its values")
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    try:
        values = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # such as rows of different lengths
        raise ValueError(f"{name}: found {type(values).__name__}, expected numbers in an array: {error}") from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name}: found dtype {values.dtype}, expected real numbers")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: found {(~np.isfinite(values)).sum()} of {values.size} values not finite, expected 0")
    return values


def at_least_one(name: str, number: Any) -> None:
    """Raise ``ValueError`` unless an argument is an integer of 1 or more."""
    if type(number) is not int or not 1 <= number < 2**31:
        raise ValueError(f"{name}: found {number!r}, expected at least 1, an integer below 2**31")


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise ``TypeError`` unless an argument is of a type."""
    if not isinstance(value, kind) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: found {type(value).__name__}, expected {expected}")


def with_minus(number: str) -> str:
    """Return ``number`` with the minus sign of matplotlib's own tick labels."""
    return number.replace("-", "\N{MINUS SIGN}")
