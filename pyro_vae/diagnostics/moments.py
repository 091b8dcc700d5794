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
        noise = readings.double().var(0).sum(0) / S if S > 1 else torch.zeros_like(values[0])
        mean = values.mean(0)
        self._add(B, mean, (values - mean).square().sum(0), noise)

    def merge(self, other: Moments) -> None:
        """Add the data of other moments, on any device.

        >>> first, second = Moments(), Moments()
        >>> first.update(torch.tensor([[[2.0]]]))
        >>> second.update(torch.tensor([[[6.0]]]))
        >>> first.merge(second)
        >>> first.mean, first.variance
        (tensor([4.], dtype=torch.float64), tensor([8.], dtype=torch.float64))
        """
        if other.num_data:
            device = (self if self.num_data else other).mean.device
            moved = (each.to(device) for each in (other.mean, other._squares, other._noise))
            self._add(other.num_data, *moved)

    def _add(self, num_data: int, mean: Tensor, squares: Tensor, noise: Tensor) -> None:
        total = self.num_data + num_data
        step = mean - self.mean
        self._noise = self._noise + noise
        self._squares = self._squares + squares + step**2 * (self.num_data * num_data / total)
        self.mean = self.mean + step * (num_data / total)
        self.num_data = total

    @property
    def error(self) -> Tensor:
        """The Monte Carlo standard error ``(D,)`` of ``mean`` given the data."""
        return self._noise.sqrt() / self.num_data

    @property
    def variance(self) -> Tensor:
        """The unbiased variance ``(D,)`` over the data of the readings' expectation."""
        return self._squares / (self.num_data - 1) - self._noise / self.num_data
