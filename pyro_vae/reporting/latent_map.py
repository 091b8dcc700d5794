"""The map of the latents as a drawing, and all that the script of the page needs to move on it."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.display import with_error
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.reporting.decoders import Top
from pyro_vae.reporting.explorer import Explorer
from pyro_vae.reporting.findings import Findings, Located
from pyro_vae.reporting.marks import MOST_CLASSES, mark
from pyro_vae.reporting.pictures import data_uri, sprite, thumbnails
from pyro_vae.reporting.subject import Subject

__all__ = ["map_content"]

Content = dict[str, Any]
_WIDTH, _HEIGHT, _BOX = 560, 500, (78, 10, 472, 440)  # of the drawing; left, top, width and height of its frame
_MOST_POINTS = 1000
_MOST_SLIDERS = 8
_SPRITE_BYTES = 150_000
_THUMBNAIL = 56  # pixels of the page


def map_content(found: Findings, explorer: Explorer | None, reason: str) -> Content:
    """Return what the template of the map shows, with the explorer or the reason why there is none."""
    subject, located = found.subject, found.located
    places = located.plane.places[:_MOST_POINTS]
    low, high = places.amin(0), places.amax(0)
    middle, extent = (low + high) / 2, (high - low).clamp(min=1e-6)
    scale = min(0.92 * size / each for size, each in zip(_BOX[2:], extent.tolist(), strict=True))
    corner = (
        torch.tensor([_BOX[0] + _BOX[2] / 2, _BOX[1] + _BOX[3] / 2]).double() + middle * torch.tensor([-1, 1]) * scale
    )
    points = (corner + places * torch.tensor([1, -1]) * scale).round(decimals=1)
    sheet = _sheet(subject, len(points))
    lead = (
        "Each point is a test datum, at its posterior mean. Points that lie together have similar latents. Both axes "
        "have the same scale."
    )
    hover = "Point at a mark, or touch it, for the datum and its log p(x)."
    if sheet["number"] and sheet["number"] < len(points):
        hover += f" The first {sheet['number']} of {len(points)} show their image."
    groups = _groups(subject, points)
    plane = located.plane.sentence
    if subject.program is not None and len(subject.program.latents) > 1:
        plane += " A mean is that given one draw of the layers that the guide draws before it."
    data = {
        "points": points.tolist(),
        "labels": [None] * len(points) if subject.labels is None else _labels(subject, len(points)),
        "scores": _scores(found, len(points)),
        "sprite": sheet,
        "explorer": explorer and _walk(subject, located, explorer, scale, corner.tolist()),
    }
    return {
        "lead": lead, "plane": plane, "hover": hover, "width": _WIDTH, "height": _HEIGHT, "box": _BOX,
        "names": located.plane.names, "ticks": _ticks(scale, corner.tolist()), "groups": groups,
        "marks": [mark(index) for index in range(10)], "class_names": _class_names(subject, points), "data": data,
        "alt": f"Scatter plot of the posterior means of {len(points)} test data in {located.site}",
        "explorer": explorer and _panel(subject, located, explorer), "no_explorer": reason,
    }  # fmt: skip


def _labels(subject: Subject, number: int) -> list[str]:
    assert subject.labels is not None
    return [subject.class_name(label) for label in subject.labels[:number].tolist()]


def _scores(found: Findings, number: int) -> list[str]:
    """Return log p(x) of each datum in words, or nothing where it is not known."""
    try:
        score: LogLikelihood = found.evaluation.log_likelihood
    except Exception:  # the section of the evaluation says why
        return [""] * number
    columns = zip(*(column[:number].tolist() for column in (score.values, score.std_error, score.khat)), strict=True)
    return [f"log p(x) {with_error(value, error)}, k̂ {khat:.2f}" for value, error, khat in columns]


def _sheet(subject: Subject, number: int) -> Content:
    if not subject.shows_images:
        return {"number": 0}
    images = thumbnails(subject.images()[:number])
    file, count = sprite(images, _SPRITE_BYTES)
    height, width = images.shape[1:3]
    return {
        "number": count,
        "columns": math.ceil(math.sqrt(count)),
        "width": width,
        "height": height,
        "scale": max(1, _THUMBNAIL // max(height, width)),
        "uri": data_uri(file),
    }


def _groups(subject: Subject, points: Tensor) -> list[Content]:
    """Return the points by class, each with its mark; those beyond the marks that there are share the last one."""
    if subject.labels is None:
        return [_group(0, points, None)]
    labels = subject.labels[: len(points)]
    present = labels.unique().tolist()
    own = present if len(present) <= MOST_CLASSES else present[: MOST_CLASSES - 1]
    groups = [_group(i, points[labels == label], subject.class_name(label)) for i, label in enumerate(own)]
    if len(own) < len(present):
        others = ~torch.isin(labels, torch.tensor(own))
        name = f"the other {len(present) - len(own)} classes"
        groups.append(_group(MOST_CLASSES - 1, points[others], name))
    return groups


def _group(index: int, points: Tensor, name: str | None) -> Content:
    return {"mark": mark(index), "shape": index % 10, "points": points.tolist(), "name": name}


def _class_names(subject: Subject, points: Tensor) -> list[Content]:
    """Return where the names of the classes stand: at the medians of their points."""
    if subject.labels is None:
        return []
    labels = subject.labels[: len(points)]
    present = labels.unique().tolist()
    if len(present) > MOST_CLASSES:
        return []
    middles = [(subject.class_name(label), points[labels == label].median(0).values.tolist()) for label in present]
    return [{"name": name[:20], "x": round(x, 1), "y": round(y + 6, 1)} for name, (x, y) in middles]


def _ticks(scale: float, corner: list[float]) -> list[Content]:
    left, top, width, height = _BOX
    ticks: list[Content] = []
    for axis in (0, 1):
        first = (left - corner[0]) / scale if axis == 0 else (corner[1] - top - height) / scale
        last = first + (width if axis == 0 else height) / scale
        for value in MaxNLocator(6).tick_values(first, last):
            if not first < value < last:
                continue
            text = f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
            if axis == 0:
                x = round(corner[0] + scale * value, 1)
                ticks.append({"x1": x, "x2": x, "y1": top, "y2": top + height, "x": x, "y": top + height + 16,
                              "anchor": "middle", "text": text})  # fmt: skip
            else:
                y = round(corner[1] - scale * value, 1)
                ticks.append({"x1": left, "x2": left + width, "y1": y, "y2": y, "x": left - 5, "y": y + 4,
                              "anchor": "end", "text": text})  # fmt: skip
    return ticks


def _walk(subject: Subject, located: Located, explorer: Explorer, scale: float, corner: list[float]) -> Content:
    """Return what the script needs to move and to decode."""
    assert isinstance(located.top, Top)
    return {
        "origin": located.plane.origin.tolist(), "axes": located.plane.axes.tolist(), "scale": scale, "corner": corner,
        "units": _units(located), "shape": list(subject.values.shape[1:]), "argument": located.top.decoder.argument,
        "classes": [subject.class_name(label) for label in range(located.top.num_classes)], "bytes": explorer.num_model,
    }  # fmt: skip


def _units(located: Located) -> list[int]:
    """Return the units whose means vary most."""
    return located.means.double().var(0).argsort(descending=True)[:_MOST_SLIDERS].tolist()


def _panel(subject: Subject, located: Located, explorer: Explorer) -> Content:
    """Return what stands beside the map."""
    assert isinstance(located.top, Top)
    size = tuple(subject.values.shape[-2:])
    sliders = []
    for unit in _units(located):
        means = located.means[:, unit]
        low, high = min(-3.0, means.min().item() - 0.5), max(3.0, means.max().item() + 0.5)
        value = f"{located.plane.origin[unit].item():.2f}".replace("-0.00", "0.00")
        sliders.append({"unit": unit, "name": f"{located.site}[{unit}]", "low": f"{low:.1f}", "high": f"{high:.1f}",
                        "value": value})  # fmt: skip
    dims = located.means.shape[1]
    sentence = (
        "" if dims <= _MOST_SLIDERS else f"There is a slider for the {_MOST_SLIDERS} of {dims} units that move most."
    )
    weights = "" if explorer.significand == 24 else f", with weights rounded to {explorer.significand} bits"
    accuracy = f"The decoder is the program's{weights}: it differs from PyTorch by at most {explorer.difference:.0e}."
    return {"sentence": f"{located.top.sentence} {sentence}".strip(), "size": size, "sliders": sliders,
            "classes": [subject.class_name(label) for label in range(located.top.num_classes)],
            "accuracy": accuracy}  # fmt: skip
