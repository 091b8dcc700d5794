"""The pictures of a run: what it learnt, by epoch, in images and in its latent space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from pyro_vae.data.loading import Splits
from pyro_vae.likelihoods import Heterogeneous
from pyro_vae.plots import latent_grid, latent_space, layers, learning_curve, manifold, reconstructions, samples
from pyro_vae.programs.vae import VAE
from pyro_vae.runtime.files import replacing
from pyro_vae.training.history import History

__all__ = ["draw"]


def draw(vae: Any, splits: Splits, history: History, folder: Path) -> None:
    """Draw the pictures; data that are not images get the learning curve alone."""
    figures = {"learning_curve": learning_curve(history.records)}
    images = not isinstance(vae.likelihood, Heterogeneous) and (  # which stands on the columns of tables
        len(splits.data_shape) == 2 or (len(splits.data_shape) == 3 and splits.data_shape[0] in (1, 3))
    )
    if images:
        x = splits.test[:10]
        figures["reconstructions"] = reconstructions(x, vae.reconstruct(x))
        figures["samples"] = samples(vae.sample(100, mean=True))
    if len(vae.latents) > 1 and images:
        shown = range(1, len(vae.latents) + 1, math.ceil(len(vae.latents) / 6))  # a few of many layers
        figures["layer_samples"] = layers({vae.latents[t - 1]: vae.sample(10, layer=t, mean=True) for t in shown})
        rows = {"x": x} | {vae.latents[t - 1]: vae.reconstruct(x, layer=t) for t in shown}
        figures["layer_reconstructions"] = layers(rows)
    if isinstance(vae, VAE) and vae.prior.latent_dim == 2:
        figures["latent_space"] = latent_space(vae.encode(splits.test[:]), splits.test.labels)
        if images:
            z, coordinates = latent_grid(20)
            with torch.no_grad():
                figures["manifold"] = manifold(vae.likelihood(z.to(next(vae.parameters()))).mean, coordinates)
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150)
