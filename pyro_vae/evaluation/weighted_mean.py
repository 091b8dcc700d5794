"""The weighted mean of what particles have, and its Monte Carlo error, of chunks of them that arrive one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["WeightedMean"]


class WeightedMean:
    r"""The weighted mean of f ``(B, D)``, which arrives in chunks of particles, and its error.

    .. math:: m = \frac{\sum_k w_k f_k}{\sum_k w_k}, \qquad
              \mathrm{se}^2 = \frac{\sum_k w_k^2 (f_k - m)^2}{\left(\sum_k w_k\right)^2}

    Weights are kept relative to the largest so far, and f to the first mean, lest the squares cancel.

    Examples
    --------
    >>> mean = WeightedMean()
    >>> share = mean.update(torch.tensor([[0.0], [math.log(3.0)]]), torch.tensor([[[0.0]], [[1.0]]]))
    >>> mean.mean(), mean.std_error()  # 3/4, and the root of (3/4)² / 16 + 9 (1/4)² / 16
    (tensor([[0.7500]]), tensor([[0.2652]]))
    """

    def __init__(self) -> None:
        self.count = 0
        self.log_scale: Tensor | None = None

    def update(self, log_w: Tensor, f: Tensor) -> Tensor:
        """Add log weights ``(chunk, B)`` of f, ``(chunk, B, D)``; return their share of all weight so far, ``(B,)``."""
        self.count += len(log_w)
        largest = log_w.amax(0)
        if self.log_scale is None:
            self.log_scale, self.start = largest, f.mean(0)  # (B,), (B, D)
            self.weight = self.weight_2 = torch.zeros_like(largest)
            self.first = self.first_2 = self.second_2 = torch.zeros_like(self.start)
        scale = torch.maximum(self.log_scale, largest)
        w, shrink, f = (log_w - scale).exp(), (self.log_scale - scale).exp(), f - self.start
        self.log_scale = scale
        self.weight = self.weight * shrink + w.sum(0)
        self.weight_2 = self.weight_2 * shrink**2 + w.square().sum(0)
        self.first = self.first * shrink[:, None] + torch.einsum("kb,kbd->bd", w, f)
        self.first_2 = self.first_2 * shrink[:, None] ** 2 + torch.einsum("kb,kbd->bd", w**2, f)
        self.second_2 = self.second_2 * shrink[:, None] ** 2 + torch.einsum("kb,kbd->bd", w**2, f**2)
        return w.sum(0) / self.weight

    def mean(self) -> Tensor:
        """The mean, ``(B, D)``."""
        return self.start + self.first / self.weight[:, None]

    def std_error(self) -> Tensor:
        """Its standard error ``(B, D)`` by the delta method; NaN for a single particle."""
        if self.count == 1:
            return torch.full_like(self.start, math.nan)
        m = self.first / self.weight[:, None]
        squares = self.second_2 - 2 * m * self.first_2 + m**2 * self.weight_2[:, None]
        return squares.clamp(min=0).sqrt() / self.weight[:, None]
