"""Objectives: bounds on log p(x), one file each. Larger is better; the loss is minus the bound."""

from pyro_vae.objectives.elbo import ELBO
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.objective import Objective

__all__ = ["ELBO", "IWAE", "Objective"]
