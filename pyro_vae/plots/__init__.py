r"""Pictures of a variational autoencoder: arrays in, a matplotlib ``Figure`` out.

===================================================  ==================================================
:func:`learning_curve`                               Does the bound still rise?
:func:`reconstructions`                              Does a code keep what matters about its datum?
:func:`samples`                                      Does the model generate plausible data?
:func:`kl_per_unit`                                  Which layers and latent units does the model use?
:func:`layers`                                       What does each layer of a hierarchy decide?
:func:`latent_space`                                 What lies where in a latent space of any size?
:func:`manifold`                                     What is decoded where in one of two dimensions?
:func:`interpolation`, :func:`traversal`             What lies between two data? What does a unit do?
:func:`log_likelihoods`, :func:`scores`              Which data does the model find unlikely?
:func:`differences`                                  On which data is one model better than another?
:func:`estimates`, :func:`sandwich`                  How far are the figures to be trusted?
===================================================  ==================================================

Every function takes NumPy arrays or torch tensors, on any device, with or without gradients; most also take what
:func:`pyro_vae.fit`, :func:`pyro_vae.diagnose` and so on return. None uses pyplot, a backend or ``rcParams``. So a
figure can be drawn in a training loop, in a thread or without a display, and it is freed with the last reference to it.
A notebook shows it as it stands. Save it as ``samples(x).savefig("samples.png", dpi=150)``.
"""

from importlib.util import find_spec

if find_spec("matplotlib") is None:  # said here, as this room imports nothing else of the package
    raise ImportError('plots: found no matplotlib, expected one: pip install "pyro_vae[report]"')

from pyro_vae.plots.bars import kl_per_unit
from pyro_vae.plots.canvas import Figure
from pyro_vae.plots.curves import learning_curve
from pyro_vae.plots.distributions import differences, log_likelihoods, scores
from pyro_vae.plots.images import layers, reconstructions, samples
from pyro_vae.plots.intervals import estimates, sandwich
from pyro_vae.plots.latents import latent_grid, latent_space, manifold
from pyro_vae.plots.walks import interpolation, traversal

__all__ = [
    "Figure",
    "differences",
    "estimates",
    "interpolation",
    "kl_per_unit",
    "latent_grid",
    "latent_space",
    "layers",
    "learning_curve",
    "log_likelihoods",
    "manifold",
    "reconstructions",
    "samples",
    "sandwich",
    "scores",
    "traversal",
]
