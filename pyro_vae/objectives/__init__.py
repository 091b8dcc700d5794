"""Objectives: bounds on log p(x), one file each. Larger is better; the loss is minus the bound."""

from pyro_vae.objectives.ciwae import CIWAE
from pyro_vae.objectives.elbo import ELBO
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.miwae import MIWAE, PIWAE
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.renyi import RenyiBound
from pyro_vae.objectives.semi_supervised import SemiSupervised
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "Objective",
    "RenyiBound",
    "ReweightedWakeSleep",
    "SemiSupervised",
    "WakeSleep",
]
