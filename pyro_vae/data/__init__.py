"""Data: a name or an array, its splits, and the batches of them on a device."""

from pyro_vae.data.batches import Batches, Binarize, Split, as_batches
from pyro_vae.data.loading import Name, Splits, load

__all__ = ["Batches", "Binarize", "Name", "Split", "Splits", "as_batches", "load"]
