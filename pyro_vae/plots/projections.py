r"""Two of many latent dimensions: the most active units, or principal components.

A unit is active if its posterior mean moves with the data, so the activity of a unit is the variance of its mean,

.. math:: A_i = \mathrm{Var}_x\bigl(\mathbb{E}_{q(z|x)}[z_i]\bigr) .

Units have a meaning of their own where the posterior is diagonal, and can be moved one by one. Principal components are
the directions in which the means vary most, of which each mixes all units.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["Projection", "projected"]

Projection = Literal["active", "pca"]


def projected(z: npt.NDArray[Any], projection: Projection) -> tuple[npt.NDArray[Any], tuple[str, str]]:
    """Return points ``(N, 2)`` of the posterior means ``(N, D)``, and what their axes show."""
    if projection not in get_args(Projection):
        raise ValueError(f"projection: found {projection!r}, expected one of {get_args(Projection)}")
    num_data, num_units = z.shape
    if num_units == 1:  # the empirical distribution function, which hides no point behind another
        rank = np.empty(num_data)
        rank[np.argsort(z[:, 0], kind="stable")] = (np.arange(num_data) + 0.5) / num_data
        return np.stack((z[:, 0], rank), axis=1), ("$z_1$", "share of the data below")
    if num_units == 2:
        return z, ("$z_1$", "$z_2$")
    variance = z.astype(np.float64).var(axis=0)
    if projection == "active":
        first, second = np.argsort(-variance, kind="stable")[:2]
        labels = (
            f"z[{first}], the most active of {num_units} units (variance {variance[first]:.2g})",
            f"z[{second}], the second most active (variance {variance[second]:.2g})",
        )
        return z[:, [first, second]], labels
    centred = z.astype(np.float64) - z.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, [-1, -2]]  # (D, 2)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # the sign of an eigenvector is arbitrary
    points = centred @ axes
    total = variance.sum()
    share = points.var(axis=0) / total if total > 0 else np.zeros(2)
    labels = (
        f"first principal component of {num_units} units ({share[0]:.0%} of the variance)",
        f"second principal component ({share[1]:.0%} of the variance)",
    )
    return points, labels
