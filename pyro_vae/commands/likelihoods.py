"""The likelihood of a run: chosen by the data where it is not said, and made over a decoder of the run's widths."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.loading import Splits
from pyro_vae.data.sparse import SparseSplit
from pyro_vae.data.split import Split
from pyro_vae.data.stored import Stored
from pyro_vae.likelihoods import Gaussian, NegativeBinomial
from pyro_vae.nn.mlp import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.vae import VAE
from pyro_vae.tables.features import ColumnFeatures

__all__ = ["likelihood_for", "vae_of_numbers"]

_MOST = 10.0  # the mean and the standard deviation of an entry that is standardised, or nearly so
_FIRST = 1000  # rows on disk that are looked at where the likelihood is named


def likelihood_for(config: dict[str, Any], splits: Splits) -> str:
    """Return the likelihood of a run: that of its settings, or one that suits the data.

    Zeros and ones are Bernoulli, as a density of them has no upper limit. Other numbers in [0, 1] have a Gaussian with
    a mean in it. Of a VAE, rows of other whole numbers are counts, and all else is real. Named sets have been decided
    before.

    Raises
    ------
    ValueError
        If a likelihood is for a VAE alone, for numbers that its mean cannot reach, for a density of zeros and ones, and
        for real numbers that are not standardised.
    """
    chosen, is_vae = config["likelihood"], config["program"] == "vae"
    if chosen in ("real", "counts") and not is_vae:
        raise ValueError(f"--likelihood: found {chosen} for {config['program']}, expected bernoulli or gaussian")
    if chosen not in (None, "gaussian", "real"):
        return str(chosen)
    low, high, is_whole = _range(splits, chosen is not None)
    is_unit = low >= 0 and high <= 1
    if is_unit and is_whole:
        if chosen is not None:
            raise ValueError(f"--likelihood: found {chosen} for zeros and ones alone, of which a density has no upper "
                             "limit, expected bernoulli")  # fmt: skip
        return "bernoulli"
    if chosen is None and (is_unit or is_vae):
        is_counts = is_whole and low >= 0 and len(splits.data_shape) == 1
        chosen = "gaussian" if is_unit else "counts" if is_counts else "real"
    elif chosen != "real" and not is_unit:
        instead = "real, for standardised numbers" if is_vae else "--program vae, which has real and counts"
        raise ValueError(f"--likelihood: found {chosen or 'none'} for {config['program']} and numbers from {low:g} to "
                         f"{high:g}, expected numbers in [0, 1], or {instead}")  # fmt: skip
    if chosen == "real":
        _check_standardised(splits)
    return str(chosen)


def vae_of_numbers(config: dict[str, Any], splits: Splits) -> VAE:
    """Return a VAE of real numbers or of counts; its encoder sees the logarithms of counts."""
    shape, latent_dim, widths = splits.data_shape, config["latent_dim"], config["hidden_dims"]
    decoder = MLP(latent_dim, shape, tuple(widths)[::-1], config["activation"])
    if config["likelihood"] == "real":
        likelihood = Gaussian(decoder, shape, scale="per_pixel")
        return VAE(shape, latent_dim, widths, likelihood, activation=config["activation"])
    if len(shape) != 1:
        raise ValueError(f"--likelihood: found counts for data of shape {shape}, expected rows of counts, (N, D)")
    mean = max(float(splits.train.mean().double().mean()), 1e-3)
    width = 1e3 * max(_range(splits)[1], 1.0) / mean  # above every count, by far
    encoder = MLP(shape[0], (2, latent_dim), widths, config["activation"])
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=NegativeBinomial(decoder, shape, low=mean / width, high=mean * width),
        posterior=DiagonalNormal(ColumnFeatures(encoder, (0,) * shape[0], tuple(range(shape[0])))),
    )


def _parts(splits: Splits) -> list[Any]:
    """Return the numbers of the three parts as arrays, those of sparse rows without the zeros."""
    found: list[Any] = []
    for part in (splits.train, splits.valid, splits.test):
        if isinstance(part, Stored):
            raise ValueError("--likelihood: found none for data that stay on disk, expected one that is named")
        values = part.values.data if isinstance(part, SparseSplit) else part.values
        found.append(values.numpy() if isinstance(values, Tensor) else np.asarray(values))
    return found


def _range(splits: Splits, of_some: bool = False) -> tuple[float, float, bool]:
    """Return the smallest and the largest number, and whether all are whole; ``of_some`` on disk, the first rows."""
    train = splits.train
    if of_some and isinstance(train, Stored):
        low, high = train[:_FIRST].aminmax()
        return float(low), float(high), False
    if isinstance(train, Split) and train.levels > 1:  # grey levels are divided by their number
        black_and_white = (bool(((x == 0) | (x == train.levels)).all()) for x in _parts(splits))
        return 0.0, 1.0, train.binarize is not None or all(black_and_white)
    parts = [values for values in _parts(splits) if values.size]
    is_sparse = isinstance(train, SparseSplit)
    zero = [0.0] * is_sparse  # which is not stored
    low, high = min([*zero, *(float(x.min()) for x in parts)]), max([*zero, *(float(x.max()) for x in parts)])
    return low, high, all(values.dtype.kind in "biu" or bool((values == np.round(values)).all()) for values in parts)


def _check_standardised(splits: Splits) -> None:
    train = splits.train
    if isinstance(train, SparseSplit):
        mean = train.mean().double()
        squares = torch.from_numpy(np.asarray(train.values.multiply(train.values).mean(0)).reshape(-1))
        deviation = (squares - mean.square()).clamp(min=0).sqrt()
    else:
        values = train[:].double().flatten(1)
        mean, deviation = values.mean(0), values.std(0)
    size = torch.maximum(mean.abs(), deviation)
    if bool((size > _MOST).any()):
        worst = int(size.argmax())
        raise ValueError(
            f"--likelihood: found real for numbers of mean {mean[worst]:g} and standard deviation "
            f"{deviation[worst]:g}, expected standardised ones: (x - x.mean(0)) / x.std(0); the columns of a table "
            "(.csv, .tsv, .parquet) are standardised"
        )
