"""Running mean and variance over data of quantities that are measured with noise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """The mean and variance over data of S noisy readings ``(S, B, D)`` of each, in float64.

    >>> moments = Moments()
    >>> moments.update(torch.tensor([[[1.0], [5.0]], [[3.0], [7.0]]]))  # 2 and 6, read as 2 -+ 1 and 6 -+ 1
    >>> moments.mean, moments.variance  # 8, of which noise gives 1
    (tensor([4.], dtype=torch.float64), tensor([7.], dtype=torch.float64))
    """

    def __init__(self) -> None:
        self.num_data = 0
        self.mean = self._squares = self._noise = torch.zeros((), dtype=torch.float64)

    def update(self, readings: Tensor) -> None:
        """Add a batch by the formulas of Chan, Golub and LeVeque (1979), without a difference of large sums."""
        S, B, _ = readings.shape
        values = readings.double().mean(0)  # (B, D)
        if S > 1:
            self._noise = self._noise + readings.double().var(0).sum(0) / S
        mean, total = values.mean(0), self.num_data + B
        step = mean - self.mean
        self._squares = self._squares + (values - mean).square().sum(0) + step**2 * (self.num_data * B / total)
        self.mean = self.mean + step * (B / total)
        self.num_data = total

    @property
    def error(self) -> Tensor:
        """The Monte Carlo standard error ``(D,)`` of ``mean`` given the data."""
        return self._noise.sqrt() / self.num_data

    @property
    def variance(self) -> Tensor:
        """The unbiased variance ``(D,)`` over the data of the readings' expectation."""
        return self._squares / (self.num_data - 1) - self._noise / self.num_data
