r"""A linear chain whose guide is its posterior, moved: all that an annealed run does there is known.

With :math:`q = \mathcal N(m + \delta, C)` and the posterior :math:`\mathcal N(m, C)`, the log weight is linear in the
latents. Under :math:`f_\beta` its variance is :math:`J = \delta^\top C^{-1} \delta`, and its mean
:math:`\log p(x) + (\beta - \tfrac12) J`. Hence :math:`\log W` of T equal steps has the mean
:math:`\log p(x) - J / 2T` and, where each step draws anew, the variance J/T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyro_vae
from tests.support.linear_chains import LinearChain, Order


@dataclass
class Shifted:
    """Two layers, five pixels; the guide is off by ``shift`` in every latent."""

    chain: LinearChain
    program: pyro_vae.HVAE
    x: Tensor
    log_p: Tensor
    spread: float  # J

    @classmethod
    def by(cls, shift: float, order: Order = "top-down", num_data: int = 3) -> Shifted:
        chain = LinearChain.random(2)
        posteriors = chain.exact_posteriors(order)
        with torch.no_grad():
            for part in posteriors:
                part.bias.add_(shift)
        x = chain.data(num_data)
        mean, covariance = chain.posterior(x)
        away = (chain.guide_moments(posteriors, order, x)[0] - mean)[0].detach()  # the same for all data
        spread = (away @ covariance.inverse() @ away).item()
        return cls(chain, chain.program(posteriors, order), x, chain.log_p(x), spread)

    @property
    def pair(self) -> tuple[Any, Any]:
        return self.program.model, self.program.guide

    def copies(self, count: int) -> Tensor:
        """One datum over and over: with a chain each, as many independent runs as there are copies."""
        return self.x[:1].expand(count, -1)
