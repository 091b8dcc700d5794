r"""What one particle does to a bound, for all K particles at once in O(K B).

The score of a draw is multiplied by :math:`f(\ell) - f(\ell^{[-k]})`, the change of the bound when the k-th log weight
takes the place of :math:`o_k`, the mean of the others (:mod:`pyro_vae.objectives.gradients`). Computed for an arbitrary
f, it takes K bounds of K weights. For a mean it is :math:`(\ell_k - o_k) / K`, and for the logarithm of a mean of
powers, with :math:`S = \sum_j w_j^p` and :math:`e^{o_k}` in place of :math:`w_k`,

.. math:: \frac1p \log \frac{S}{S - w_k^p + e^{p o_k}} = -\frac1p \log\bigl(1 + r_k\bigr), \qquad
          r_k = \frac{e^{p o_k} - w_k^p}{S} .

Where :math:`|r_k| < 1/2` the right side keeps its digits, with the difference written as a product,
:math:`w_k^p (e^{p (o_k - \ell_k)} - 1)`. Elsewhere the left side does, if :math:`S - w_k^p` has its own. For the
largest weight of a datum, the only one that can be more than half of S, it is the sum of the others.

A closed form belongs to one reduction: :func:`signal_of` and :func:`curvature_of` attach it to the function itself. A
subclass with another reduction thus has the general form, until it has a closed one of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["closed_form", "curvature_of", "log_mean_signal", "mean_signal", "power_curvature", "signal_of"]

Reduction = Callable[..., Tensor]


def signal_of(reduce: Reduction) -> Callable[[Reduction], Reduction]:
    """Mark a method ``(log_w, others)`` as the changes ``(K, B)`` of a bound when each log weight in turn is replaced.

    Examples
    --------
    >>> class Mean:
    ...     def reduce(self, log_w):
    ...         return log_w.mean(0)
    ...
    ...     @signal_of(reduce)
    ...     def signal(self, log_w, others):
    ...         return mean_signal(log_w, others)
    >>> closed_form(Mean().reduce, "signal")(torch.tensor([[1.0], [3.0]]), torch.tensor([[3.0], [1.0]]))
    tensor([[-1.],
            [ 1.]])
    >>> closed_form(torch.sum, "signal") is None
    True
    """
    return _marker(reduce, "signal")


def curvature_of(reduce: Reduction) -> Callable[[Reduction], Reduction]:
    """Mark a method ``(log_w)`` as the second derivatives ``(K, B)`` of a bound, each by one log weight."""
    return _marker(reduce, "curvature")


def _marker(reduce: Reduction, name: str) -> Callable[[Reduction], Reduction]:
    def mark(method: Reduction) -> Reduction:
        reduce.__dict__[name] = reduce, method
        return method

    return mark


def closed_form(reduce: Reduction, name: str) -> Reduction | None:
    """Return the closed form of a reduction, a method of the same object; ``None`` if there is none."""
    owner, function = getattr(reduce, "__self__", None), getattr(reduce, "__func__", None)
    marked, method = getattr(reduce, name, (None, None))
    if method is None or marked is not function:  # functools.wraps copies marks to another function
        return None
    return functools.partial(method, owner)


def mean_signal(log_w: Tensor, others: Tensor) -> Tensor:
    """Return the changes ``(K, ...)`` of the mean of log weights."""
    return (log_w - others) / len(log_w)


def log_mean_signal(log_w: Tensor, others: Tensor, power: float = 1.0) -> Tensor:
    """Return the changes ``(K, ...)`` of the logarithm of the power mean of weights."""
    peak, index = log_w.max(0, keepdim=True) if power > 0 else log_w.min(0, keepdim=True)
    own, other = log_w - peak, others - peak
    if power != 1:
        own, other = power * own, power * other  # the largest is 0
    weight = own.exp()
    total = weight.sum(0)
    ratio = weight * (other - own).expm1() / total
    without_largest = own.scatter(0, index, -math.inf).logsumexp(0, keepdim=True)
    log_rest = (total - weight).log_().scatter_(0, index, without_largest)
    far = total.log() - torch.logaddexp(log_rest, other)
    return torch.where(ratio.abs() < 0.5, ratio.log1p().neg_(), far) / power


def power_curvature(log_w: Tensor, power: float = 1.0) -> Tensor:
    r"""Return the second derivatives ``(K, ...)`` of the logarithm of the power mean, :math:`p (s_k - s_k^2)`.

    Here :math:`s_k = w_k^p / \sum_j w_j^p`.
    """
    share = (power * log_w).softmax(0)
    return power * (share - share.square())
