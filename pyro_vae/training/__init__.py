"""Training: one call that fits a pair to data, and all that lets a run stop and go on."""

from pyro_vae.training.callbacks import tensorboard
from pyro_vae.training.checkpoint import load, save
from pyro_vae.training.fitting import fit
from pyro_vae.training.history import History, Record

__all__ = ["History", "Record", "fit", "load", "save", "tensorboard"]
