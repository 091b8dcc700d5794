"""Priors: modules whose ``forward()`` returns p(z), a Pyro distribution with an empty batch shape."""

from pyro_vae.priors.codes import AutoregressiveCodes, IndependentCodes
from pyro_vae.priors.flow import FlowPrior
from pyro_vae.priors.gaussian import LearnedNormal, StandardNormal
from pyro_vae.priors.mixture import GaussianMixture
from pyro_vae.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveCodes",
    "FlowPrior",
    "GaussianMixture",
    "IndependentCodes",
    "LearnedNormal",
    "StandardNormal",
    "VampPrior",
]
