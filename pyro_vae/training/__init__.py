"""Training: one call that fits a pair to data, and all that lets a run stop and go on."""

from pyro_vae.training.callbacks import Callback, Run
from pyro_vae.training.checkpoint import load, save
from pyro_vae.training.fitting import fit
from pyro_vae.training.history import History, Record
from pyro_vae.training.services import mlflow, tensorboard, trackio, wandb

__all__ = [
    "Callback",
    "History",
    "Record",
    "Run",
    "fit",
    "load",
    "mlflow",
    "save",
    "tensorboard",
    "trackio",
    "wandb",
]
