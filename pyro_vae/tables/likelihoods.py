r"""The likelihood of columns, and a VAE around it.

.. math:: p(x|z) = \prod_{j\,\text{real}} \mathcal{N}\bigl(x_j; \mu_j(z), \sigma_j^2\bigr)
          \prod_{j\,\text{count}} \mathrm{NB}\bigl(x_j; \mu_j(z), \theta_j\bigr)
          \prod_{j\,\text{binary}} \mathrm{Bernoulli}\bigl(x_j; y_j(z)\bigr)
          \prod_{j\,\text{nominal}} P_j(x_j|z)

The rate of a count starts at the column's mean: the bounds of :func:`pyro_vae.nn.scales.bounded_scale` lie around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import nn

from pyro_vae.likelihoods import Bernoulli, Gaussian, Heterogeneous, Likelihood, NegativeBinomial, Nominal
from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.vae import VAE
from pyro_vae.tables.columns import Column
from pyro_vae.tables.features import ColumnFeatures

__all__ = ["likelihood_of", "num_categories_of", "vae_of"]


def num_categories_of(columns: Sequence[Column]) -> tuple[int, ...]:
    """Return for each column the number of categories if it is nominal, else 0."""
    return tuple(len(column.categories) if column.kind == "nominal" else 0 for column in columns)


def likelihood_of(columns: Sequence[Column], network: nn.Module | None) -> Heterogeneous:
    """Return the likelihood of columns in their order; neighbours of one kind share a part, but for counts."""
    keys = [(column.kind, place if column.kind == "count" else len(column.categories), place, column)
            for place, column in enumerate(columns)]  # fmt: skip
    groups = [[key[3] for key in group] for _, group in groupby(keys, key=lambda key: key[:2])]
    return Heterogeneous(network, [_part(group[0], (len(group),)) for group in groups])


def _part(column: Column, shape: tuple[int]) -> Likelihood:
    if column.kind == "real":
        return Gaussian(None, shape, scale="per_pixel")
    if column.kind == "binary":
        return Bernoulli(None, shape)
    if column.kind == "nominal":
        return Nominal(None, shape, len(column.categories))
    width = 1e3 * column.high / column.mean  # above every count, by far
    return NegativeBinomial(None, shape, low=column.mean / width, high=column.mean * width)


def vae_of(columns: Sequence[Column], latent_dim: int, hidden_dims: Sequence[int], activation: Activation) -> VAE:
    """Return a VAE of columns, whose encoder sees indicators of categories and logarithms of counts."""
    num_categories = num_categories_of(columns)
    counts = [place for place, column in enumerate(columns) if column.kind == "count"]
    num_features = sum(number or 1 for number in num_categories)
    encoder = MLP(num_features, (2, latent_dim), hidden_dims, activation)
    decoder = MLP(latent_dim, likelihood_of(columns, None).output_shape, tuple(hidden_dims)[::-1], activation)
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=likelihood_of(columns, decoder),
        posterior=DiagonalNormal(ColumnFeatures(encoder, num_categories, counts)),
    )
