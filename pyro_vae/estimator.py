r"""The VAE with the interface of scikit-learn, for tables of real numbers: pipelines, searches, outlier detection.

Columns are standardised first, so their units do not matter, and a Gaussian with a learned scale for each column stands
on the decoder. With the column means m and standard deviations s,

.. math:: y = \frac{x - m}s, \qquad
          \log p(x) = \log p(y) - \sum_i \log s_i, \qquad
          \log p(y) \approx \log \frac1K \sum_k \frac{p\bigl(y, z_k(y)\bigr)}{q\bigl(z_k(y)|y\bigr)}, \qquad
          z_k(y) = \mu(y) + \sigma(y)\, \epsilon_k .

The K draws of noise :math:`\epsilon_k` are made once, by ``fit``, and are the same for all data. So the score of a
datum depends on nothing but that datum, as scikit-learn expects it, and the scores of two data differ by less noise.

The module needs scikit-learn, and is not imported with the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import torch

from pyro_vae.likelihoods import Gaussian
from pyro_vae.nn.mlp import MLP
from pyro_vae.programs.vae import VAE
from pyro_vae.runtime.arguments import PositiveInteger, PositiveNumber, Widths, check
from pyro_vae.runtime.kinds import Numbers
from pyro_vae.runtime.optional import imported, install
from pyro_vae.runtime.state import seeded
from pyro_vae.training.fitting import fit

if find_spec("sklearn") is None:
    imported("sklearn", "scikit-learn", "estimator", install("images"))  # raises, with how to install it

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:
        """Check data with the method that estimators had for it."""
        return estimator._validate_data(X, **options)


__all__ = ["VAEEstimator"]

_MOST_DRAWS = 100_000  # at once


class VAEEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, BaseEstimator):
    """A variational autoencoder as a transformer, a density estimator and an outlier detector.

    It computes in float64 on the CPU.

    Parameters
    ----------
    n_components
        The number of latents, which are the columns that ``transform`` returns.
    hidden_layer_sizes
        The widths of the encoder's hidden layers; the decoder has the same in reverse.
    max_iter
        The number of passes over the data.
    batch_size
        The number of data in a step; all of them, if there are fewer.
    learning_rate
        That of Adam.
    num_particles
        K, the number of draws by which the density of each datum is estimated.
    contamination
        The fraction of the training data that ``predict`` calls outliers. See :func:`pyro_vae.threshold` for a
        threshold from held-out data, with a guarantee.
    random_state
        As everywhere in scikit-learn: an integer, a ``RandomState`` or ``None``.

    Attributes
    ----------
    vae_
        The trained :class:`~pyro_vae.VAE`, of standardised data.
    history_
        The :class:`~pyro_vae.History` of its training.
    scaler_
        The ``StandardScaler`` of the columns.
    noise_
        The draws of noise, ``(num_particles, n_components)``.
    offset_
        The threshold of ``score_samples`` below which ``predict`` returns -1.
    n_iter_, n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> estimator = VAEEstimator(n_components=2, max_iter=5, random_state=0).fit(X)
    >>> estimator.transform(X).shape, estimator.score_samples(X).shape, estimator.predict(X[:3]).shape
    ((100, 2), (100,), (3,))
    """

    def __init__(
        self,
        n_components: PositiveInteger = 2,
        *,
        hidden_layer_sizes: Widths = (64,),
        max_iter: PositiveInteger = 200,
        batch_size: PositiveInteger = 100,
        learning_rate: PositiveNumber = 1e-3,
        num_particles: PositiveInteger = 100,
        contamination: Annotated[float, Numbers("a number in (0, 0.5]", 0, 0.5, "low")] = 0.1,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_particles = num_particles
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> VAEEstimator:
        """Train on data ``(n_samples, n_features)``; ``y`` is ignored."""
        given = {name: getattr(self, name) for name in self._get_param_names() if name != "random_state"}
        check(type(self).__init__, {name: v.item() if isinstance(v, np.generic) else v for name, v in given.items()})
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        generator = check_random_state(self.random_state)
        seed = int(generator.randint(2**31 - 1))
        self.scaler_ = StandardScaler().fit(X)
        with seeded(seed):
            self.vae_ = self._untrained(X.shape[1])
        self.history_ = fit(
            self.vae_.model,
            self.vae_.guide,
            self._standardised(X),
            num_epochs=int(self.max_iter),
            batch_size=min(int(self.batch_size), len(X)),
            lr=self.learning_rate,
            seed=seed,
            progress=False,
        )
        self.n_iter_ = len(self.history_.records)
        self.noise_ = generator.standard_normal((int(self.num_particles), int(self.n_components)))
        self.offset_ = np.percentile(self._log_densities(X), 100 * self.contamination)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the posterior means ``(n_samples, n_components)`` of data."""
        return self.vae_.encode(self._standardised(self._checked(X))).numpy()

    @torch.no_grad()
    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the means of the data ``(n_samples, n_features)`` for latents ``(n_samples, n_components)``."""
        check_is_fitted(self)
        z = check_array(X, dtype=np.float64)
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"X: found {z.shape[1]} columns, expected {self._n_features_out}, one for each component")
        return self.scaler_.inverse_transform(self.vae_.likelihood(torch.tensor(z)).mean.numpy())

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the estimate of log p(x) of each datum, ``(n_samples,)``, nats, in the units of the data."""
        return self._log_densities(self._checked(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of ``score_samples``; ``y`` is ignored."""
        return float(self.score_samples(X).mean())

    def decision_function(self, X: Any) -> np.ndarray:
        """Return ``score_samples`` less the offset: outliers are below 0."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return -1 for outliers and 1 for others, ``(n_samples,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw data ``(n_samples, n_features)`` from the model."""
        check_is_fitted(self)
        with seeded(int(check_random_state(random_state).randint(2**31 - 1))):
            return self.scaler_.inverse_transform(self.vae_.sample(n_samples).numpy())

    @property
    def _n_features_out(self) -> int:
        return int(self.noise_.shape[1])

    def _untrained(self, num_columns: int) -> VAE:
        widths: Sequence[int] = tuple(map(int, self.hidden_layer_sizes))
        decoder = MLP(int(self.n_components), num_columns, widths[::-1])
        likelihood = Gaussian(decoder, (num_columns,), scale="per_pixel")
        return VAE((num_columns,), int(self.n_components), widths, likelihood).double()

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _standardised(self, X: np.ndarray) -> torch.Tensor:
        return torch.tensor(self.scaler_.transform(X))

    @torch.no_grad()
    def _log_densities(self, X: np.ndarray) -> np.ndarray:
        noise = torch.tensor(self.noise_)[:, None]  # (K, 1, n_components)
        values = [self._log_weights(y, noise).logsumexp(0) for y in self._batches(X)]
        jacobian = np.log(self.scaler_.scale_).sum() + math.log(len(noise))
        return torch.cat(values).numpy() - jacobian

    def _batches(self, X: np.ndarray) -> Sequence[torch.Tensor]:
        return self._standardised(X).split(max(_MOST_DRAWS // len(self.noise_), 1))

    def _log_weights(self, y: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the log weights ``(K, B)`` of the latents that the noise becomes."""
        q = self.vae_.posterior(y)
        z = q.mean + q.stddev * noise  # (K, B, n_components)
        return self.vae_.prior().log_prob(z) + self.vae_.likelihood(z).log_prob(y) - q.log_prob(z)
