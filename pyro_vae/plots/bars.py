"""The KL of each layer and of each latent unit, as bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vae.plots.canvas import COLORS, FONT_POINTS, Array, Drawable, Figure, check_kind, finite, with_minus

__all__ = ["kl_per_unit"]

_NAMED = 60  # with more units there is no room for the number of each
_APART = 100  # with more units the bars touch, since gaps between them would be thinner than a pixel
_SINGLE = 1000  # with more units a bar is thinner than a pixel, and a step of an outline does
_PANELS = 4  # in one column


def kl_per_unit(kl: Drawable, active: Mapping[str, Array] | None = None) -> Figure:
    """Draw the KL of each latent unit, largest first, in one panel a layer, and of several layers the KL of each.

    The panels follow the order of the mapping, from the top down. A model draws its top layer first, so for
    ``diagnose(...)`` the layer next to the data is at the bottom. Each panel has its own scale; the topmost one has the
    layers on one scale. Up to 60 units have their number below their bar, counted from 0 as in ``z[:, 0]``.

    Parameters
    ----------
    kl
        What :func:`pyro_vae.diagnose` returns, or the mean KL of the units of each site, ``(D,)``, in nats.
    active
        The active units of each site, as booleans ``(D,)``, by default those of the diagnosis. The bars of the others
        are hatched. Sites without them are gray.

    Raises
    ------
    TypeError
        If ``kl`` or ``active`` is not a mapping.
    ValueError
        If there is no site, the values of a site are not ``D`` numbers, or ``active`` has a site that ``kl`` lacks.

    Examples
    --------
    >>> figure = kl_per_unit({"z2": [0.01, 0.02], "z1": [0.5, 3.0, 1.5]})
    >>> [axes.get_title() for axes in figure.axes]
    ['z2: 0.03 nats in 2 units', 'z1: 5.00 nats in 3 units', 'KL of each layer']
    """
    if not isinstance(kl, Mapping) and hasattr(kl, "kl_per_unit"):
        sites, found = kl.kl_per_unit, kl.is_active()
        # A site that does not factorise has one KL for all of its units.
        own = {name: found[name] for name in sites if name in found and found[name].shape == sites[name].shape}
        kl, active = sites, own if active is None else active
    check_kind("kl", kl, Mapping, "a diagnosis, or a mapping from sites to numbers")
    if active is not None:
        check_kind("active", active, Mapping, "a mapping from sites to booleans")
    if not kl:
        raise ValueError("kl: found no site, expected one or more")
    active = {} if active is None else active
    if unknown := [name for name in active if name not in kl]:
        raise ValueError(f"active: found the sites {unknown}, expected none but those of kl, {list(kl)}")
    nats = {name: _units(name, values) for name, values in kl.items()}
    num_columns = math.ceil(len(kl) / _PANELS) if len(kl) > _PANELS else 1
    num_rows, extra = math.ceil(len(kl) / num_columns), int(len(kl) > 1)
    figure = Figure(figsize=(6.4 * min(num_columns, 3), 0.6 + 2.2 * (num_rows + extra)), layout="constrained")
    grid = figure.add_gridspec(num_rows + extra, num_columns)
    for index, (name, values) in enumerate(nats.items()):
        column, row = divmod(index, num_rows)
        axes = figure.add_subplot(grid[row + extra, column])
        _draw_units(axes, name, values, active.get(name), bool(active))
        if row == num_rows - 1 or index == len(nats) - 1:
            axes.set_xlabel("unit, by its KL" if len(values) <= _NAMED else "rank of the unit by its KL")
    if extra:
        _draw_layers(figure.add_subplot(grid[0, :]), nats)
    return figure


def _units(name: str, values: Array) -> npt.NDArray[Any]:
    nats = finite(f"kl[{name!r}]", values)
    if nats.ndim != 1 or len(nats) == 0:
        raise ValueError(f"kl[{name!r}]: found shape {nats.shape}, expected (D,) with D at least 1")
    return nats


def _draw_units(axes: Axes, name: str, nats: npt.NDArray[Any], active: Array | None, others: bool) -> None:
    """Draw the bars of one layer; ``others`` tells whether any layer has active units."""
    order = np.argsort(-nats, kind="stable")
    position = np.arange(1, len(nats) + 1)
    groups = [("units", np.ones(len(nats), dtype=bool), COLORS[8] if others else COLORS[0], "")]
    title = f"{name}: {with_minus(f'{nats.sum():.2f}')} nats in {len(nats)} unit{'s' * (len(nats) > 1)}"
    if active is not None:
        on = finite(f"active[{name!r}]", active).astype(bool)
        if on.shape != nats.shape:
            raise ValueError(f"active[{name!r}]: found shape {on.shape}, expected that of kl, {nats.shape}")
        groups = [("active", on[order], COLORS[0], ""), ("not active", ~on[order], COLORS[6], "////")]
        title += f", {on.sum()} active"
    for label, chosen, color, hatch in groups:
        style: dict[str, Any] = {"facecolor": color, "hatch": hatch, "label": label, "edgecolor": "white"}
        if chosen.any() and len(nats) <= _SINGLE:
            width = 0.8 if len(nats) < _APART else 1.0
            axes.bar(position[chosen], nats[order][chosen], width, linewidth=0, **style)
        elif chosen.any():
            axes.fill_between(position, np.where(chosen, nats[order], 0), step="mid", linewidth=0, **style)
    if active is not None:
        axes.legend(frameon=False, loc="upper right")
    axes.axhline(0, color="black", linewidth=0.8, zorder=3)
    axes.set_title(title, fontsize=FONT_POINTS)
    axes.set_xlim(0.25, max(len(nats), 4) + 0.75)  # a single bar does not fill the panel
    if len(nats) <= _NAMED:
        style = {} if len(nats) <= 20 else {"fontsize": 7, "rotation": 90 * (len(nats) > 30)}
        axes.set_xticks(position, [str(unit) for unit in order], **style)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_ylabel("KL (nats)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_layers(axes: Axes, nats: Mapping[str, npt.NDArray[Any]]) -> None:
    """Draw the KL of each layer on one scale, with its number."""
    totals = [float(values.sum()) for values in nats.values()]
    position = np.arange(len(totals))
    axes.bar(position, totals, 0.6, color=COLORS[4])
    for x, total in zip(position, totals, strict=True):
        place = (0, 2 if total >= 0 else -2)
        axes.annotate(with_minus(f"{total:.2f}"), (x, total), place, textcoords="offset points", ha="center",
                      va="bottom" if total >= 0 else "top", fontsize=FONT_POINTS - 1)  # fmt: skip
    axes.set_xticks(position, list(nats))
    axes.set_xlim(-0.6, max(len(totals), 4) - 0.4)
    axes.margins(y=0.15)
    axes.axhline(0, color="black", linewidth=0.8, zorder=3)
    axes.set_title("KL of each layer", fontsize=FONT_POINTS)
    axes.set_ylabel("KL (nats)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
