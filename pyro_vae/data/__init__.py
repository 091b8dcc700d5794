"""Data: a name, an array, a table or files, their splits, and the batches of them on a device."""

from pyro_vae.data.batches import Batches
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.loading import Splits, load
from pyro_vae.data.sources import Name
from pyro_vae.data.sparse import SparseSplit
from pyro_vae.data.split import Binarize, Split
from pyro_vae.data.stored import Stored

__all__ = ["Batches", "Binarize", "Name", "SparseSplit", "Split", "Splits", "Stored", "as_batches", "load"]
