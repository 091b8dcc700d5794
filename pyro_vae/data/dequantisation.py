r"""Dequantisation: grey levels become real numbers by uniform noise, so that a density can model them.

A pixel stored in L levels is a whole number k, on which a density has no upper bound: where a pixel never varies, a
Gaussian gains from every decrease of its scale. Noise u, uniform in [0, 1) and drawn anew at each use, spreads a level
over the interval that it stands for,

.. math:: y = \frac{k + u}{L} \in [0, 1) .

A density p of y then gives each level the mass of its interval as its probability. By Jensen's inequality, the expected
log-density bounds the log-probability from below:

.. math:: \log P(k) = \log \int_{[0, 1)^D} p\Bigl(\frac{k + u}{L}\Bigr) \frac{du}{L^D}
          \ge \mathbb{E}_u\Bigl[\log p\Bigl(\frac{k + u}{L}\Bigr)\Bigr] - D \log L .

The last term is the Jacobian of the division by L, :math:`\log 256` = 5.55 nats a dimension for bytes. With it,
densities and probabilities of levels are comparable in bits per dimension. The bound is tight where p is flat over each
interval.

Uria, Murray and Larochelle, *RNADE*, 2013, section 4; Theis, van den Oord and Bethge, *A note on the evaluation of
generative models*, 2016, section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.runtime.arguments import PositiveInteger, PositiveNumber, checked

__all__ = ["bits_per_dim", "dequantize"]


def dequantize(levels: Tensor, num_levels: int, noise: Tensor) -> Tensor:
    """Return (k + u) / L in [0, 1), of levels k from 0 to L - 1 and noise u in [0, 1), both in floating point.

    >>> dequantize(torch.tensor([0.0, 0.0, 3.0]), 4, torch.tensor([0.0, 0.5, 0.999]))
    tensor([0.0000, 0.1250, 0.9998])
    """
    y = (levels + noise) / num_levels
    return y.clamp(max=1 - 0.5 * torch.finfo(y.dtype).eps)  # 255 + 0.99999999 is 256 in float32


@checked
def bits_per_dim(nats: float, num_dims: PositiveNumber, num_levels: PositiveInteger = 1) -> float:
    r"""Turn a log-probability, or a bound on it, into bits per dimension; smaller is better.

    .. math:: -\frac{\mathrm{nats}}{D \log 2} + \log_2 L

    Parameters
    ----------
    nats
        log p of a datum, or its mean over data.
    num_dims
        D, the number of entries of a datum.
    num_levels
        L if p is a density of levels dequantised to [0, 1); 1 if it is a probability already.

    Examples
    --------
    >>> bits_per_dim(0.0, 784, num_levels=256)  # the uniform density knows nothing of a byte
    8.0
    """
    return -nats / (num_dims * math.log(2)) + math.log2(num_levels)
