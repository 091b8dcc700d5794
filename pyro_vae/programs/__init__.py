"""Programs: a model and its guide, one pair a file."""

from pyro_vae.programs.vae import VAE

__all__ = ["VAE"]
