"""Programs in the forms that others read: networks in files that need neither Pyro nor this package."""

from pyro_vae.sharing.exporting import export

__all__ = ["export"]
