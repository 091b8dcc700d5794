r"""A plane through the latent space, on which data are shown as points.

Two latents are a plane as they are. Of more, the page shows the plane that holds most of what the posterior means
:math:`m_n` do, by their first two principal components,

.. math:: a_n = v_1^\top (m_n - \bar m), \qquad b_n = v_2^\top (m_n - \bar m), \qquad
          \text{share} = \frac{\sum_n a_n^2 + b_n^2}{\sum_n \lVert m_n - \bar m \rVert^2} .
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Plane", "plane_of"]


@dataclass(frozen=True)
class Plane:
    """A plane, and the place of each datum on it.

    ``origin`` is ``(D,)``, ``axes`` ``(2, D)`` and ``places`` ``(N, 2)``; ``names`` are those of the two axes.
    """

    origin: Tensor
    axes: Tensor
    places: Tensor
    names: tuple[str, str]
    sentence: str


def plane_of(means: Tensor, site: str) -> Plane:
    """Return the plane of the posterior means of a site, ``(N, D)`` with D of 2 or more.

    Raises
    ------
    ValueError
        If D is 1, or the means are not finite.
    """
    means = means.double().cpu()
    if means.dim() != 2 or means.shape[1] < 2:
        raise ValueError(f"{site}: found posterior means {tuple(means.shape)}, expected (N, D) with D of 2 or more")
    if not means.isfinite().all():
        raise ValueError(f"{site}: found posterior means that are not finite, expected numbers")
    size = means.shape[1]
    if size == 2:
        sentence = f"The two axes are the two units of {site}, and a point is the posterior mean of a datum."
        return Plane(torch.zeros(2).double(), torch.eye(2).double(), means, (f"{site}[0]", f"{site}[1]"), sentence)
    origin = means.mean(0)
    centred = means - origin
    _, scale, axes = torch.linalg.svd(centred, full_matrices=False)
    if len(axes) < 2:
        raise ValueError(f"{site}: found {len(means)} datum, expected 2 or more")
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * largest.sign()  # a principal component has no sign of its own
    total = scale.square().sum()
    share = (scale[:2].square().sum() / total).item() if total > 0 else 0.0
    sentence = (
        f"{site} has {size} units, and a page has two dimensions: the axes are the first two principal components of "
        f"the posterior means, which hold {100 * share:.0f} % of their variance. Data that lie together here may lie "
        "apart in the other directions."
    )
    names = tuple(f"principal component {i} of {site}" for i in (1, 2))
    return Plane(origin, axes, centred @ axes.T, (names[0], names[1]), sentence)
