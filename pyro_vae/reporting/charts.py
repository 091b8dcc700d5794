"""The charts of a report: the bound by epoch, the KL by unit, and how log p(x) and the Pareto k̂ are spread.

Each comes with a description in words, for those who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.reporting.figures import INK, drawing, new_axes
from pyro_vae.reporting.marks import COLORS

__all__ = ["Chart", "bound_by_epoch", "kl_by_unit", "spread"]

_MOST_BARS = 60


class Chart(NamedTuple):
    """A chart as SVG, and how to read it."""

    svg: Markup
    caption: str


def bound_by_epoch(records: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw the bound of training and of validation data over the epochs; larger is better."""
    figure, axes = new_axes()
    epochs = np.array([record["epoch"] for record in records])
    words, seen = [], []
    for key, label, color, style in (
        ("train_bound", "training", COLORS[0], "-"),
        ("valid_bound", "validation", COLORS[1], "--"),
    ):
        values = np.array([record.get(key) for record in records], dtype=float)
        there = np.isfinite(values)
        if not there.any():
            continue
        marker = {"-": "o", "--": "s"}[style] if there.sum() <= 20 else None
        axes.plot(epochs[there], values[there], style, color=color, label=label, marker=marker, markersize=3.5)
        words.append(f"{label} from {values[there][0]:.2f} to {values[there][-1]:.2f}")
        seen.append(values)
    if not seen:
        raise ValueError(f"records: found no finite bound in {len(records)} epochs, expected at least one")
    late = np.concatenate([values[1:] if len(values) > 1 else values for values in seen])
    late = late[np.isfinite(late)]
    is_cut = len(late) > 0 and len(epochs) > 5  # the first epochs often lie hundreds of nats below the others
    if is_cut:
        low, high = np.quantile(late, 0.1), max(values[np.isfinite(values)].max() for values in seen)
        low = min(low, *(values[np.isfinite(values)][-1] for values in seen))
        axes.set_ylim(low - 0.15 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound, nats per datum")
    axes.legend(labelcolor=INK, frameon=False)
    axes.ticklabel_format(axis="y", useOffset=False)
    caption = (
        "Across: the epoch. Up: the bound on log p(x), higher is better; a validation curve that falls while the "
        "training curve rises is overfitting."
    )
    if is_cut:
        caption += " The picture starts where the first, steep epochs end."
    return Chart(drawing(figure, "curves", f"Bound by epoch: {'; '.join(words)} nats per datum."), caption)


def kl_by_unit(name: str, kl: Tensor, active: Tensor | None, index: int) -> Chart:
    """Draw the KL of the units of a layer, largest first; bars of units that are not active are hatched."""
    order = kl.argsort(descending=True, stable=True)
    values = kl[order].tolist()[:_MOST_BARS]
    is_active = None if active is None else active[order][:_MOST_BARS].tolist()
    figure, axes = new_axes(2.3)
    positions = np.arange(1, len(values) + 1)
    if is_active is None:
        axes.bar(positions, values, color=COLORS[0], label="units")
    else:
        styles: list[tuple[bool, str, dict[str, Any]]] = [
            (True, "active", {"color": COLORS[0]}),
            (False, "not active", {"facecolor": "none", "edgecolor": INK, "hatch": "////"}),
        ]
        for chosen, label, style in styles:
            at = [i for i, flag in enumerate(is_active) if flag is chosen]
            if at:
                axes.bar(positions[at], [values[i] for i in at], label=label, **style)
        axes.legend(labelcolor=INK, frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("unit, largest KL first")
    axes.set_ylabel("KL, nats")
    axes.margins(x=0.02)
    left_out = f" The {len(kl) - _MOST_BARS} smallest are left out." if len(kl) > _MOST_BARS else ""
    count = "" if active is None else f", {int(active.sum())} of them active"
    said = f"KL of the {len(kl)} units of {name}{count}: from {kl.max():.3f} down to {kl.min():.3f} nats."
    caption = (
        f"{name}: {kl.sum():.2f} nats in all. Across: the units, by their KL. Up: what each unit tells about a datum "
        f"beyond the prior. An active unit is one whose mean moves with the data.{left_out}"
    )
    return Chart(drawing(figure, f"kl{index}", said), caption)


def spread(values: Tensor, name: str, label: str, caption: str, threshold: float | None = None) -> Chart:
    """Draw a histogram; what lies above the threshold is hatched, and what is infinite stands at the end."""
    known = values[~values.isnan()].double().cpu().numpy()
    finite = known[np.isfinite(known)]
    num_infinite = len(known) - len(finite)
    if not len(finite) and threshold is None:
        raise ValueError(f"{label}: found no finite value of {len(values)}, expected some")
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, float(threshold or 0.0))
    if low == high:
        low, high = low - 0.5, high + 0.5
    if threshold is not None:
        low, high = min(low, threshold - 0.1), max(high, threshold + 0.1)
    bins = np.linspace(low, high, max(8, min(40, math.ceil(2 * len(known) ** 0.5))) + 1)
    drawn = known.clip(low, high)
    figure, axes = new_axes(2.4)
    parts: list[tuple[Any, str | None, dict[str, Any]]] = [(drawn, None, {"color": COLORS[0]})]
    words = f"from {known.min():.3g} to {known.max():.3g}, median {np.median(known):.3g}"
    if threshold is not None:
        bins = np.unique(np.append(bins, threshold))
        above = known > threshold
        hatched = {"facecolor": "none", "edgecolor": COLORS[1], "hatch": "////"}
        parts = [
            (drawn[~above], f"up to {threshold}", {"color": COLORS[0]}),
            (drawn[above], f"above {threshold}", hatched),
        ]
        words += f"; {above.sum()} of {len(known)} above {threshold}"
    for part, legend, keywords in parts:
        axes.hist(part, bins=bins.tolist(), label=legend, **keywords)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1)
        axes.legend(labelcolor=INK, frameon=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label)
    axes.set_ylabel("number of data")
    if num_infinite:
        caption += f" {num_infinite} of them are infinite, and stand at the end."
    return Chart(drawing(figure, name, f"Histogram of {label}: {words}."), caption)
