"""Marks of classes: a shape and a colour each, so that neither the eye nor a print in grey has to tell by colour alone.

Ten shapes take ten colours; classes 10 to 19 have the same as outlines. The colours are Petroff's (2021), which people
with the common colour-vision deficiencies can tell apart, and which stand out on white and on black.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["COLORS", "MOST_CLASSES", "Mark", "mark"]

COLORS = ["#3f90da", "#e76300", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#ffa90e", "#92dadd", "#717581", "#b9ac70"]
MOST_CLASSES = 20


class Mark(NamedTuple):
    """A shape around (0, 0) as an SVG path, a colour, and whether the shape is filled."""

    path: str
    color: str
    filled: bool


def _polygon(radii: list[float], turn: float = 0.0) -> str:
    """Return a closed path whose corners have these distances from the middle, the first one at the top."""
    angles = [2 * math.pi * (i / len(radii)) + turn - math.pi / 2 for i in range(len(radii))]
    points = [f"{r * math.cos(a):.2f} {r * math.sin(a):.2f}" for r, a in zip(radii, angles, strict=True)]
    return f"M{'L'.join(points)}Z"


def _cross(width: float, length: float, turn: float) -> str:
    """Return a cross of two bars."""
    half, radius = math.hypot(width, length), math.hypot(width, width)
    corner = math.atan2(width, length)
    angles, radii = [], []
    for quarter in range(4):
        middle = quarter * math.pi / 2 + turn
        angles += [middle - corner, middle + corner, middle + math.pi / 4]
        radii += [half, half, radius]
    points = [f"{r * math.cos(a):.2f} {r * math.sin(a):.2f}" for r, a in zip(radii, angles, strict=True)]
    return f"M{'L'.join(points)}Z"


_SHAPES = [
    "M-3.6 0A3.6 3.6 0 1 0 3.6 0A3.6 3.6 0 1 0 -3.6 0Z",  # a disc
    _polygon([4.6] * 3),  # a triangle
    _polygon([4.5] * 4, math.pi / 4),  # a square
    _cross(1.1, 4.2, 0.0),  # a plus
    _polygon([4.6] * 4),  # a diamond
    _polygon([4.6] * 3, math.pi),  # a triangle upside down
    _polygon([5.0, 2.1] * 5),  # a star
    _cross(1.1, 4.4, math.pi / 4),  # a saltire
    _polygon([4.4] * 6),  # a hexagon
    _polygon([5.0, 1.7] * 3, math.pi / 3),  # a star of three points
]


def mark(index: int) -> Mark:
    """Return the mark of a class, counted from 0.

    >>> mark(3).color == mark(13).color, mark(3).filled, mark(13).filled
    (True, True, False)
    """
    return Mark(_SHAPES[index % 10], COLORS[index % 10], index % MOST_CLASSES < 10)
