"""The bound over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from pyro_vae.plots.canvas import COLORS, Drawable, Figure, check_kind, with_minus

__all__ = ["learning_curve"]


def learning_curve(records: Drawable, entropy_floor: float | None = None) -> Figure:
    """Draw the bound over epochs, on training and validation data; larger is better.

    The epoch with the best validation bound is marked. The first epochs often lie hundreds of nats below the rest, so
    the picture starts at the 10 % quantile of all epochs but the first. It always contains the last epochs, so that a
    run that overfits or diverges shows it.

    Parameters
    ----------
    records
        The history that :func:`pyro_vae.fit` returns, or one mapping per epoch, in order, with ``"epoch"`` and
        ``"train_bound"`` (nats per datum). An epoch that was validated also has ``"valid_bound"``. Other keys are
        ignored, except ``"valid_loss"``, by which the best epoch is chosen if all have it. A bound that is not finite
        is a gap in its curve.
    entropy_floor
        A lower limit of the negative log-likelihood of any model, in nats per datum, such as the entropy of the data. A
        dashed line is drawn at minus this number.

    Raises
    ------
    TypeError
        If ``records`` is not a sequence of mappings.
    ValueError
        If there are no records, one lacks a number, no bound is finite, or ``entropy_floor`` is not a finite number.

    Examples
    --------
    >>> records = [
    ...     {"epoch": 1, "train_bound": -540.0, "valid_bound": -209.0},
    ...     {"epoch": 2, "train_bound": -120.0, "valid_bound": -104.0},
    ... ]
    >>> [text.get_text() for text in learning_curve(records).axes[0].get_legend().get_texts()]
    ['training', 'validation', 'best validation: −104.00 at epoch 2']
    """
    records = getattr(records, "records", records)
    check_kind("records", records, Sequence, "a history, or a list of one mapping an epoch")
    if entropy_floor is not None and not (type(entropy_floor) in (int, float) and math.isfinite(entropy_floor)):
        raise ValueError(f"entropy_floor: found {entropy_floor!r}, expected a finite number")
    if not records:
        raise ValueError("records: found none, expected one mapping an epoch")
    for index, record in enumerate(records):
        check_kind(f"records[{index}]", record, Mapping, "a mapping")
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
    # With markers, as a line alone would not show a single epoch.
    style: dict[str, Any] = {"linewidth": 1.2, "marker": "o" if len(records) <= 20 else "", "markersize": 3}
    axes.plot(epochs, train, color=COLORS[0], label="training", **style)
    if was_validated.any():  # without the other epochs, which would leave gaps in the line
        x, y = epochs[was_validated], valid[was_validated]
        axes.plot(x, y, color=COLORS[6], linestyle=(0, (5, 1)), label="validation", **style)
    if np.isfinite(valid).any():
        losses = [record.get("valid_loss") for record in records]  # under annealing it is not minus the bound
        score = valid if None in losses else -np.array(losses, dtype=float)
        best = int(np.argmax(np.where(np.isfinite(valid), score, -np.inf)))
        label = f"best validation: {with_minus(f'{valid[best]:.2f}')} at epoch {epochs[best]}"
        axes.plot(epochs[best], valid[best], "*", color="black", markersize=9, zorder=3, label=label)
    if entropy_floor is not None:
        label = f"ceiling (entropy floor): {with_minus(f'{-entropy_floor:.2f}')}"
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


def _limits(train: npt.NDArray[Any], valid: npt.NDArray[Any], also: list[float]) -> tuple[float, float]:
    """Return the limits of the axis of :func:`learning_curve`; ``also`` are values to keep inside."""
    curves = [curve[np.isfinite(curve)] for curve in (train, valid)]  # (<= T,)
    everything = np.concatenate(curves)
    later = np.concatenate([curve[1:] for curve in curves])
    low = np.quantile(later, 0.1) if len(later) >= 4 else everything.min()  # too few to have outliers
    low = min([low, *also, *(curve[-1] for curve in curves if len(curve))])
    high = max([everything.max(), *also])
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)
