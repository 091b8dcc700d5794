"""Points of classes, told apart by marker, by colour and by a name amid each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patheffects import withStroke

from pyro_vae.plots.canvas import COLORS, FONT_POINTS, MARKERS

__all__ = ["MOST_CLASSES", "scatter_classes"]

MOST_CLASSES = 20


def _style(index: int) -> tuple[str, str]:
    """Return the colour and the marker of a class: those from the eleventh on have the colours in other markers."""
    return COLORS[index % len(COLORS)], MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def scatter_classes(
    axes: Axes, points: npt.NDArray[Any], indices: npt.NDArray[Any], names: Sequence[str], size: float
) -> None:
    """Scatter ``points`` of the classes ``names[indices]`` in their given order, so that no class covers another."""
    styles = [_style(index) for index in range(len(names))]
    shapes = [MarkerStyle(marker) for _, marker in styles]
    paths = [shape.get_path().transformed(shape.get_transform()) for shape in shapes]
    drawn = axes.scatter(points[:, 0], points[:, 1], s=size, color=[styles[i][0] for i in indices], linewidths=0)
    drawn.set_paths([paths[i] for i in indices])
    for index, name in enumerate(names):
        x, y = np.median(points[indices == index], axis=0)
        axes.text(x, y, name, fontsize=FONT_POINTS, fontweight="bold", ha="center", va="center", clip_on=True,
                  path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip
    handles = [
        Line2D([], [], linestyle="", color=color, marker=marker, label=name)
        for (color, marker), name in zip(styles, names, strict=True)
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handletextpad=0.1)
