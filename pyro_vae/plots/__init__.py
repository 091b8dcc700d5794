r"""Pictures of a variational autoencoder: arrays in, a matplotlib ``Figure`` out.

What one looks at, in order: does the bound still rise (:func:`learning_curve`); does a code keep what matters about
its datum (:func:`reconstructions`); does the model dream plausible data (:func:`samples`); which latents does it use at
all (:func:`kl_per_unit`); and, with a latent space of two dimensions, what lies where in it (:func:`latent_space`,
:func:`manifold`).

Every function takes numpy arrays or torch tensors, on any device, with or without gradients. None touches pyplot, the
choice of a backend or ``rcParams``: a figure can be drawn inside a training loop, in a thread or without a display,
and is freed with the last reference to it. Save it as ``samples(x).savefig("samples.png", dpi=150)``.
"""

from pyro_vae.plots.curves import kl_per_unit, learning_curve
from pyro_vae.plots.images import layers, reconstructions, samples
from pyro_vae.plots.latents import latent_grid, latent_space, manifold

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
