"""Scales between two bounds, as a smooth function of an unbounded number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["bounded_scale", "check_bounds", "inverse_bounded_scale"]


def check_bounds(low: float, high: float) -> None:
    """Raise ``ValueError`` unless ``0 < low < high``."""
    if not 0 < low < high:
        raise ValueError(f"low, high: found {low!r} and {high!r}, expected 0 < low < high")


def bounded_scale(raw: Tensor, low: float, high: float) -> Tensor:
    r"""Map the real line smoothly onto scales in ``(low, high)``, through a bounded log-scale.

    .. math:: \log\sigma = m + h \tanh(\mathrm{raw} / h), \quad
              m = \tfrac12 (\log \mathrm{high} + \log \mathrm{low}),\;
              h = \tfrac12 (\log \mathrm{high} - \log\mathrm{low})

    Around ``raw = 0`` this is the plain :math:`\sigma = e^{m + \mathrm{raw}}`. Far from 0, where an exponential would
    overflow early in training, it saturates. No finite or infinite ``raw`` gives NaN, zero or infinity.

    Raises
    ------
    ValueError
        Unless ``0 < low < high``.

    Examples
    --------
    >>> bounded_scale(torch.tensor([-1e30, 0.0, 1e30]), 0.01, 100.0)
    tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """
    check_bounds(low, high)
    middle = 0.5 * (math.log(high) + math.log(low))
    half = 0.5 * (math.log(high) - math.log(low))
    return torch.exp(middle + half * torch.tanh(raw / half))


def inverse_bounded_scale(scale: Tensor, low: float, high: float) -> Tensor:
    """Return the ``raw`` that :func:`bounded_scale` maps to ``scale``.

    Raises
    ------
    ValueError
        Unless ``0 < low < scale < high`` everywhere.

    Examples
    --------
    >>> bounded_scale(inverse_bounded_scale(torch.tensor(0.5), 0.01, 10.0), 0.01, 10.0)
    tensor(0.5000)
    """
    if not 0 < low < high or not ((scale > low) & (scale < high)).all():
        raise ValueError(
            f"low, high: found {low!r} and {high!r}, expected positive numbers below and above the scale, from "
            f"{scale.min():g} to {scale.max():g}"
        )
    middle = 0.5 * (math.log(high) + math.log(low))
    half = 0.5 * (math.log(high) - math.log(low))
    return half * torch.atanh((scale.log() - middle) / half)
