"""Posteriors: modules whose ``forward(x)`` returns q(z|x), a Pyro distribution of batch shape ``(B,)``.

In a hierarchy a posterior is conditioned on the layer drawn before, with x or instead of it. The same modules serve as
the model's transitions p(z_t|z_{t+1}).
"""

from pyro_vae.posteriors.flow import FlowPosterior
from pyro_vae.posteriors.gaussian import DiagonalNormal, FullNormal, LowRankNormal, precision_weighted
from pyro_vae.posteriors.mixture import MixturePosterior

__all__ = [
    "DiagonalNormal",
    "FlowPosterior",
    "FullNormal",
    "LowRankNormal",
    "MixturePosterior",
    "precision_weighted",
]
