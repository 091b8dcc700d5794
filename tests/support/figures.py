"""Read back what a figure shows: its pixels, its lines and its words."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def rendered(figure: Figure, dpi: float = 150) -> np.ndarray:
    """The picture as a reader sees it: ``(rows, columns, 3)``, 0 to 1."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def color_at(figure: Figure, x: float, y: float) -> list[float]:
    """The colour of the rendered picture at ``(x, y)`` in the data coordinates of its first axes."""
    pixels = rendered(figure)
    column, row_from_bottom = figure.axes[0].transData.transform((x, y))
    return pixels[int(len(pixels) - row_from_bottom), int(column)].tolist()


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def legend(axes: Axes) -> list[str]:
    return texts(axes.get_legend().get_texts())


def records(train, valid=None) -> list[dict]:
    return [
        {"epoch": i + 1, "train_bound": t, "valid_bound": valid and valid[i], "learning_rate": 1e-3, "seconds": 1.0}
        for i, t in enumerate(train)
    ]
