r"""Statistics of importance weights that arrive in chunks, of which only sums and the largest 3√K are kept.

With :math:`\bar w = \frac1K \sum_k w_k` for each datum:

.. math::

    \log \hat p(x) = \log \bar w, \qquad
    \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}, \qquad
    \mathrm{se}(\log \hat p) \approx \frac{\mathrm{sd}(w)}{\sqrt K\, \bar w}
      = \sqrt{\frac{K}{K-1} \Bigl(\frac1{\mathrm{ESS}} - \frac1K\Bigr)}

the last by the delta method. How far the three can be trusted is told by k̂, the shape of a generalised Pareto
distribution fitted to the largest weights: above 0.7 the variance of the weights may as well be infinite, and K too
small by orders of magnitude.

Owen, *Monte Carlo theory, methods and examples*, chapter 9; Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto Smoothed
Importance Sampling*, 2015; Zhang and Stephens, *A New and Efficient Estimation Method for the Generalized Pareto
Distribution*, 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "FEW",
    "TRUSTED_KHAT",
    "StreamingWeights",
    "annealed_caveat",
    "bias_caveat",
    "caveat",
    "least_ess",
    "merged",
    "mixed_caveat",
    "pareto_khat",
]

TRUSTED_KHAT = 0.7  # Vehtari et al., section 3.2.4
FEW = 0.1  # the part of the data that may be above it


class StreamingWeights:
    """Accumulates log weights ``(chunk, B)``; the statistics, each ``(B,)``, are of all chunks together, in float64.

    Parameters
    ----------
    num_particles
        K in total. It fixes how many of the largest weights are kept for k̂, min(K/5, 3√K).

    Examples
    --------
    >>> weights = StreamingWeights(num_particles=2)
    >>> weights.update(torch.tensor([[0.0]]))
    >>> weights.update(torch.tensor([[math.log(3.0)]]))
    >>> weights.log_mean(), weights.ess()  # the log of the mean of 1 and 3, and 4² / 10
    (tensor([0.6931], dtype=torch.float64), tensor([1.6000], dtype=torch.float64))
    """

    def __init__(self, num_particles: int) -> None:
        self.tail_size = math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))
        self.count = 0
        self.rounding = 0.0
        self._log_sum = self._log_sum_of_squares = self._largest = torch.empty(0)

    def update(self, log_w: Tensor) -> None:
        """Add a chunk of log weights ``(chunk, B)``."""
        self.rounding = max(self.rounding, torch.finfo(log_w.dtype).eps)
        log_w = log_w.detach().double()
        self._add(log_w.logsumexp(0), (2 * log_w).logsumexp(0), log_w.T, len(log_w))

    def merge(self, other: StreamingWeights) -> None:
        """Add the weights that another one has of the same data, on any device.

        >>> weights, other = StreamingWeights(2), StreamingWeights(2)
        >>> weights.update(torch.tensor([[0.0]]))
        >>> other.update(torch.tensor([[math.log(3.0)]]))
        >>> weights.merge(other)
        >>> weights.log_mean()
        tensor([0.6931], dtype=torch.float64)
        """
        self.rounding = max(self.rounding, other.rounding)
        if other.count:
            device = (self if self.count else other)._log_sum.device
            sums = other._log_sum, other._log_sum_of_squares, other._largest
            self._add(sums[0].to(device), sums[1].to(device), sums[2].to(device), other.count)

    def _add(self, total: Tensor, total_of_squares: Tensor, largest: Tensor, count: int) -> None:
        if self.count:
            total = torch.logaddexp(total, self._log_sum)
            total_of_squares = torch.logaddexp(total_of_squares, self._log_sum_of_squares)
            largest = torch.cat([largest, self._largest], 1)
        self._log_sum, self._log_sum_of_squares = total, total_of_squares
        self._largest = largest.topk(min(self.tail_size + 1, largest.shape[1]), 1).values  # (B, tail_size + 1), falling
        self.count += count

    def log_mean(self) -> Tensor:
        """The log of the mean weight, nats."""
        return self._log_sum - math.log(self.count)

    def ess(self) -> Tensor:
        """The effective sample size, between 1 and K."""
        return (2 * self._log_sum - self._log_sum_of_squares).exp()

    def std_error(self) -> Tensor:
        """The standard error of the log of the mean weight, nats; NaN for a single particle."""
        if self.count == 1:
            return torch.full_like(self._log_sum, math.nan)
        spread = (1 / self.ess() - 1 / self.count).clamp_min(0)
        return (spread * self.count / (self.count - 1)).sqrt()

    def khat(self) -> Tensor:
        """The Pareto shape of the largest weights; NaN up to 20 particles, which leave no tail to fit.

        Zero where all tie but for rounding, as they do under the exact posterior, or a quarter ties with the smallest
        to the last digits, as under a discrete one. Infinity where they span more than float64 can, a single weight
        being all there is, and where all are zero or one is not a number.
        """
        if self.tail_size < 5:
            return torch.full_like(self._log_sum, math.nan)
        peak, threshold = self._largest[:, 0], self._largest[:, -1]
        excess = (self._largest[:, :-1] - peak[:, None]).exp() - (threshold - peak).exp()[:, None]
        quartile = self._largest[:, self.tail_size - 1 - int(self.tail_size / 4 - 0.5)]
        # The rounding of a large log p may exceed the gap to the quartile of heavy weights, not that to the peak.
        rounding = self.rounding * (1 + peak.abs())
        tied = (peak - threshold <= 16 * rounding) | (quartile - threshold <= 2 * rounding)
        lost = (quartile - peak).exp() - (threshold - peak).exp() <= 0
        khat = torch.where(tied, 0.0, torch.where(lost, math.inf, pareto_khat(excess.T.flip(0))))
        return torch.where(self._log_sum.isfinite(), khat, math.inf)


def merged(parts: Sequence[StreamingWeights]) -> StreamingWeights:
    """Return the weights that several have of the same data as one."""
    first, *others = parts
    for other in others:
        first.merge(other)
    return first


def caveat(khat: Tensor) -> str:
    """Return a sentence to stand below a figure whose weights are too heavy for it, and ``""`` for others.

    They are where the Pareto k̂ of more than a tenth of the data, ``(N,)``, is above 0.7.

    >>> caveat(torch.tensor([0.2, 0.3, 0.9]))
    '† Pareto k̂ is above 0.7 for 33 % of the data: too few particles there; the estimate is too low, its ± too small'
    >>> caveat(torch.tensor([0.2, 0.3, 0.5]))
    ''
    """
    share = (khat > TRUSTED_KHAT).double().mean().item()
    if share <= FEW:
        return ""
    return (
        f"† Pareto k̂ is above {TRUSTED_KHAT} for {100 * share:.0f} % of the data: too few particles there; the "
        "estimate is too low, its ± too small"
    )


def least_ess(num_chains: int) -> float:
    """Return the effective sample size below which K annealed weights are too heavy: K/5, but 2 for K from 3 to 10.

    It is 0.7 K for fewer. The logarithm of the mean of log-normal weights with so small a one is low by some 0.1 nats.
    """
    return min(max(0.2 * num_chains, 2.0), 0.7 * num_chains)


def annealed_caveat(is_heavy: Tensor, num_chains: int) -> str:
    """Return such a sentence for annealed weights that are too heavy for more than a tenth of the data, ``(N,)``.

    >>> annealed_caveat(torch.tensor([True, False, False]), num_chains=10).partition(":")[0]
    '† the effective sample size is below 2 of 10 chains for 33 % of the data'
    """
    share = is_heavy.double().mean().item()
    if share <= FEW:
        return ""
    least = f"{least_ess(num_chains):g} of {num_chains} chains" + (
        ", or Pareto k̂ above 0.7," if num_chains > 20 else ""
    )
    return (
        f"† the effective sample size is below {least} for {100 * share:.0f} % of the data: too few temperatures "
        "there; the estimate is too low, its ± too small"
    )


def mixed_caveat(is_heavy: Tensor) -> str:
    """Return such a sentence where the weights of some data are annealed and those of others are not.

    >>> mixed_caveat(torch.tensor([True, False, False])).partition(":")[0]
    '† a few weights outweigh the others for 33 % of the data'
    """
    share = is_heavy.double().mean().item()
    if share <= FEW:
        return ""
    return (
        f"† a few weights outweigh the others for {100 * share:.0f} % of the data: too few particles or temperatures "
        "there; the estimate is too low, its ± too small"
    )


def bias_caveat(std_error: Tensor) -> str:
    r"""Return such a sentence where the logarithm takes more from a mean over data than half of its Monte Carlo error.

    That of an estimate with the error se is low by about se²/2. Means over N data have a √N times smaller error than
    single estimates, and no smaller bias.

    >>> bias_caveat(torch.full((10_000,), 0.07))
    '† log p(x) of a datum is low by about se²/2, 0.0025 nats in the mean, over half of its ±: take more particles'
    >>> bias_caveat(torch.full((100,), 0.07))
    ''
    """
    bias = std_error.square().mean().item() / 2
    error = std_error.square().sum().sqrt().item() / len(std_error)
    if not bias > error / 2:
        return ""
    low = f"{bias:.2g} nats in the mean, over half of its ±"
    return f"† log p(x) of a datum is low by about se²/2, {low}: take more particles"


def pareto_khat(excess: Tensor) -> Tensor:
    """Fit a generalised Pareto distribution to each column and return its shape k̂, as PSIS does.

    The estimator is that of :func:`pyro.ops.stats.fit_generalized_pareto`, for all columns at once (that one takes a
    single column, and divides by zero where the smallest quarter of it is zero).

    Parameters
    ----------
    excess
        ``(n, B)``, rising along the first dimension, not negative.

    Returns
    -------
    Tensor
        ``(B,)``; 0 where a quarter of the column is zero, a tail with ties at its threshold (as discrete latents give).
    """
    n = excess.shape[0]
    num_candidates = 30 + int(math.sqrt(n))
    quartile = excess[int(n / 4 - 0.5)]  # (B,)
    i = torch.arange(1, num_candidates + 1, dtype=excess.dtype, device=excess.device)[:, None]
    b = (1 - torch.sqrt(num_candidates / (i - 0.5))) / (3 * quartile) + 1 / excess[-1]  # (num_candidates, B): k / σ
    k = torch.log1p(-b[:, None] * excess).mean(1)  # (num_candidates, B)
    weight = torch.softmax(n * (torch.log(-b / k) - k - 1), 0)
    k = torch.log1p(-(weight * b).sum(0) * excess).mean(0)
    return torch.where(quartile > 0, (n * k + 5) / (n + 10), 0.0)  # drawn to 1/2 by ten prior observations
