"""How values of single data are distributed: log p(x), scores, differences of two models."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from torch import Tensor

from pyro_vae.plots.canvas import COLORS, Array, Drawable, Figure, finite, with_minus

__all__ = ["differences", "log_likelihoods", "scores"]

_TRUSTED = 0.7  # of Pareto k̂


def log_likelihoods(values: Drawable, khat: Array | None = None) -> Figure:
    """Draw the distribution of log p(x) over the data, and the Pareto k̂ of each datum beside it.

    A datum with a k̂ above 0.7, whose estimate and error are not to be trusted, is a triangle to the right of the line;
    one with an infinite k̂ stands at the right end.

    Parameters
    ----------
    values
        What :func:`pyro_vae.log_likelihood` returns, or log p(x) of each datum, ``(N,)``, nats.
    khat
        Pareto k̂ of each datum, ``(N,)``. Data whose k̂ is not known are left out on the right, and counted in its title.

    Raises
    ------
    ValueError
        If ``values`` are not N numbers, or ``khat`` has another shape.

    Examples
    --------
    >>> figure = log_likelihoods(np.array([-90.0, -80.0, -85.0]), khat=np.array([0.1, 0.9, np.nan]))
    >>> figure.axes[1].get_title()
    'k̂ > 0.7: 1 of 3 data; not known: 1'
    """
    if hasattr(values, "khat"):
        values, khat = values.values, values.khat if khat is None else khat
    nats = _vector("values", values)
    if khat is None:
        figure, (axes,) = _panels(1)
        _histogram(axes, nats, "log p(x) (nats)")
        return figure
    shapes = np.asarray(khat.detach().cpu() if isinstance(khat, Tensor) else khat, dtype=np.float64)
    if shapes.shape != nats.shape:
        raise ValueError(f"khat: found shape {shapes.shape}, expected {nats.shape}, one for each value")
    known = ~np.isnan(shapes)
    heavy = shapes[known] > _TRUSTED
    # One weight may be all there is, with an infinite k̂: it stands at the right end.
    most = max(1.0, shapes[np.isfinite(shapes)].max(initial=0.0))
    shapes = np.nan_to_num(shapes[known], posinf=1.1 * most)
    figure, (axes, beside) = _panels(2)
    _histogram(axes, nats, "log p(x) (nats)")
    for chosen, color, marker in ((~heavy, COLORS[0], "o"), (heavy, COLORS[2], "^")):
        beside.scatter(shapes[chosen], nats[known][chosen], s=14, color=color, marker=marker, linewidths=0)
    beside.axvline(_TRUSTED, color="black", linestyle="--", linewidth=1)
    unknown = f"; not known: {(~known).sum()}" if not known.all() else ""
    beside.set_title(f"k̂ > {_TRUSTED}: {heavy.sum()} of {len(nats)} data{unknown}", fontsize="medium")
    beside.set_xlabel("Pareto k̂ of the weights")
    beside.set_ylabel("log p(x) (nats)")
    beside.spines[["top", "right"]].set_visible(False)
    return figure


def scores(values: Drawable) -> Figure:
    """Draw the distribution of scores of how normal data are; anomalies are at the left.

    Parameters
    ----------
    values
        What :func:`pyro_vae.score` returns, or the score of each datum, ``(N,)``, nats.

    Raises
    ------
    ValueError
        If ``values`` are not N numbers.

    Examples
    --------
    >>> scores(np.array([-3.0, -1.0, -2.0])).axes[0].get_xlabel()
    'score (nats), higher is more normal'
    """
    if hasattr(values, "log_likelihood"):
        values = values.values
    figure, (axes,) = _panels(1)
    _histogram(axes, _vector("values", values), "score (nats), higher is more normal")
    return figure


def differences(values: Drawable) -> Figure:
    """Draw how much more log p(x) one model gives each datum than another; the bars left of zero are hatched.

    Parameters
    ----------
    values
        What :func:`pyro_vae.compare` returns, or the differences of each datum, ``(N,)``, nats.

    Raises
    ------
    ValueError
        If ``values`` are not N numbers.

    Examples
    --------
    >>> axes = differences(np.array([-1.0, 0.5, 2.0])).axes[0]
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['mean: 0.50', 'the second is better on 1', 'the first is better on 2']
    """
    if hasattr(values, "differences"):
        values = values.differences
    nats = _vector("values", values)
    figure, (axes,) = _panels(1)
    # Zero is an edge, so that no bar is on both sides.
    width = (nats.max() - nats.min()) / min(40, max(5, int(len(nats) ** 0.5))) or 1.0
    edges = width * np.arange(np.floor(min(nats.min(), 0) / width), np.ceil(max(nats.max() / width, 1)) + 1)
    for chosen, color, hatch, label in (
        (nats < 0, COLORS[6], "////", f"the second is better on {(nats < 0).sum()}"),
        (nats >= 0, COLORS[0], "", f"the first is better on {(nats > 0).sum()}"),
    ):
        axes.hist(nats[chosen], edges.tolist(), color=color, hatch=hatch, edgecolor="white", linewidth=0, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    _finish(axes, nats, "difference of log p(x), first less second (nats)")
    return figure


def _vector(name: str, values: Any) -> npt.NDArray[Any]:
    found = finite(name, values)
    if found.ndim != 1 or len(found) == 0:
        raise ValueError(f"{name}: found shape {found.shape}, expected (N,) with N at least 1")
    return found.astype(np.float64)


def _panels(number: int) -> tuple[Figure, tuple[Axes, ...]]:
    figure = Figure(figsize=(2.0 + 4.2 * number, 3.6), layout="constrained")
    return figure, tuple(figure.subplots(1, number, squeeze=False)[0])


def _histogram(axes: Axes, values: npt.NDArray[Any], label: str) -> None:
    number = min(40, max(5, int(len(values) ** 0.5)))
    axes.hist(values, number, color=COLORS[0], edgecolor="white", linewidth=0.5)
    _finish(axes, values, label)


def _finish(axes: Axes, values: npt.NDArray[Any], label: str) -> None:
    mean = values.mean()
    axes.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean: {with_minus(f'{mean:.2f}')}")
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: not names[i].startswith("mean"))
    axes.legend([handles[i] for i in order], [names[i] for i in order], frameon=False)
    axes.set_xlabel(label)
    axes.set_ylabel("data")
    axes.spines[["top", "right"]].set_visible(False)
