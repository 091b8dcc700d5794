"""Pictures of a variational autoencoder: arrays in, a matplotlib ``Figure`` out."""

from pyro_vae.plots.images import (
    kl_per_unit,
    latent_grid,
    latent_space,
    layers,
    learning_curve,
    manifold,
    reconstructions,
    samples,
)

__all__ = [
    "kl_per_unit",
    "latent_grid",
    "latent_space",
    "layers",
    "learning_curve",
    "manifold",
    "reconstructions",
    "samples",
]
