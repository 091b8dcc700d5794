r"""Pictures of a variational autoencoder: arrays in, a matplotlib ``Figure`` out.

=======================================  ============================================================
:func:`learning_curve`                   Does the bound still rise?
:func:`reconstructions`                  Does a code keep what matters about its datum?
:func:`samples`                          Does the model generate plausible data?
:func:`kl_per_unit`                      Which latent units does the model use?
:func:`layers`                           What does each layer of a hierarchy decide?
:func:`latent_space`, :func:`manifold`   What lies where in a latent space of two dimensions?
=======================================  ============================================================

Every function takes NumPy arrays or torch tensors, on any device, with or without gradients. None uses pyplot, a
backend or ``rcParams``. So a figure can be drawn in a training loop, in a thread or without a display, and it is freed
with the last reference to it. Save it as ``samples(x).savefig("samples.png", dpi=150)``.
"""

from importlib.util import find_spec

if find_spec("matplotlib") is None:  # said here, as this room imports nothing else of the package
    raise ImportError('plots: found no matplotlib, expected one: pip install "pyro_vae[report]"')

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
