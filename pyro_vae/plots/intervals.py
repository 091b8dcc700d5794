"""Figures with their errors: the rows of an evaluation, and bounds from both sides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from pyro_vae.plots.canvas import COLORS, Array, Drawable, Figure, check_kind, finite, with_minus

__all__ = ["estimates", "sandwich"]


def estimates(rows: Drawable) -> Figure:
    """Draw figures with two errors each: a thick bar of the draws, and a thin one of the choice of the data.

    Of an evaluation, the bounds with log p(x), the KL and the gaps have a panel and a scale each. Bars are one standard
    error to each side. A figure whose error is too small, as the weights are heavy, has a †.

    Parameters
    ----------
    rows
        What :func:`pyro_vae.evaluate` returns, or ``{label: (mean, Monte Carlo error, error over data)}``. An error
        that is NaN is not drawn.

    Raises
    ------
    TypeError
        If ``rows`` is not a mapping.
    ValueError
        If there is no row, or a mean is not finite.

    Examples
    --------
    >>> figure = estimates({"ELBO": (-25.0, 0.01, 0.3), "log p(x)": (-24.1, 0.004, 0.3)})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['ELBO', 'log p(x)']
    """
    groups: list[tuple[str, dict[str, tuple[float, float, float]]]]
    if isinstance(rows, Mapping) or not hasattr(rows, "figures"):
        check_kind("rows", rows, Mapping, "an evaluation, or a mapping from labels to figures")
        groups = [("nats per datum", dict(rows))]
    else:
        marked: dict[str, dict[str, tuple[float, float, float]]] = {}
        for name, row in rows.figures.items():
            kind = "KL" if name.startswith("kl_") else "gap" if "gap" in name else "bound or log p(x)"
            label = rows.labels[name].strip() + (" †" if row.num_heavy else "")
            marked.setdefault(f"{kind} (nats per datum)", {})[label] = tuple(row[:3])
        groups = list(marked.items())
    if not any(group for _, group in groups):
        raise ValueError("rows: found none, expected one or more")
    heights = [len(group) + 1.5 for _, group in groups]
    figure = Figure(figsize=(7.2, 0.5 + 0.36 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, group) in zip(panels, groups, strict=True):
        _draw(axes, group)
        axes.set_xlabel(title)
    panels[0].legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize="small")
    return figure


def _draw(axes: Axes, group: Mapping[str, tuple[float, float, float]]) -> None:
    means, drawn, over_data = np.array(list(group.values()), dtype=float).T
    finite("rows", means)
    places = np.arange(len(means))
    axes.errorbar(means, places, xerr=np.nan_to_num(over_data), fmt="none", ecolor=COLORS[8], elinewidth=1.2,
                  capsize=3, label="± over data")  # fmt: skip
    axes.errorbar(means, places, xerr=np.nan_to_num(drawn), fmt="o", color=COLORS[4], markersize=4, elinewidth=4,
                  label="± Monte Carlo")  # fmt: skip
    axes.set_yticks(places, list(group))
    axes.set_ylim(len(means) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def sandwich(lower: Drawable, upper: Array | None = None, errors: Array | None = None) -> Figure:
    """Draw the gap between a lower and an upper bound of log p(x) of each datum, with its standard error.

    Gaps that are below zero by more than their errors allow would show that an annealed run is wrong.

    Parameters
    ----------
    lower
        What :func:`pyro_vae.sandwich` returns, or the lower bound of each datum, ``(N,)``, nats.
    upper, errors
        The upper bounds ``(N,)``, and the standard errors of the gaps ``(N,)``, if ``lower`` is an array.

    Raises
    ------
    ValueError
        If the three are not of one shape ``(N,)``, or a value is not finite.

    Examples
    --------
    >>> figure = sandwich(np.array([-90.0, -80.0]), np.array([-89.5, -80.1]), np.array([0.2, 0.3]))
    >>> figure.axes[0].get_title()
    'upper less lower bound: 0.20 nats in the mean of 2 data'
    """
    if hasattr(lower, "forwards"):
        errors = lower.gap_std_errors
        lower, upper = lower.forwards.values, lower.backwards.values
    if upper is None or errors is None:
        raise ValueError("upper: found None, expected the upper bounds and their errors beside lower ones")
    below, above, spread = (finite(name, x) for name, x in (("lower", lower), ("upper", upper), ("errors", errors)))
    if below.ndim != 1 or len(below) == 0 or not below.shape == above.shape == spread.shape:
        found = f"{below.shape}, {above.shape} and {spread.shape}"
        raise ValueError(f"lower: found shapes {found} of lower, upper and errors, expected (N,) of each")
    gaps = above - below
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar((above + below) / 2, gaps, spread, fmt="o", markersize=3, color=COLORS[0], elinewidth=1, zorder=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(gaps.mean(), color="black", linestyle="--", linewidth=1, label="mean gap")
    axes.set_title(
        f"upper less lower bound: {with_minus(f'{gaps.mean():.2f}')} nats in the mean of {len(gaps)} data",
        fontsize="medium",
    )
    axes.set_xlabel("log p(x), between the bounds (nats)")
    axes.set_ylabel("gap (nats), ± its standard error")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
