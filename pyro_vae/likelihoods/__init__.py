"""Likelihoods: modules whose ``forward(z)`` returns p(x|z), a Pyro distribution with event shape ``data_shape``.

Each is a normalised density or mass on the ``support`` of its distribution. Data outside the support are refused before
training starts.

=================================  ==============================================================================
data                               likelihoods
=================================  ==============================================================================
0 or 1                             :class:`Bernoulli`
grey, anywhere in [0, 1]           :class:`ContinuousBernoulli`
real numbers                       :class:`Gaussian`, :class:`Laplace`, :class:`StudentT`
grey levels 0, 1/m, 2/m, ... 1     :class:`Categorical`, :class:`Binomial`, :class:`DiscretizedLogistic`,
                                   :class:`DiscretizedLogisticMixture`
counts 0, 1, 2, ...                :class:`Poisson`, :class:`NegativeBinomial`, :class:`ZeroInflatedPoisson`,
                                   :class:`ZeroInflatedNegativeBinomial`
codes 0, 1, ... C - 1              :class:`Nominal`
columns of several of these kinds  :class:`Heterogeneous`
=================================  ==============================================================================

Log-probabilities of the likelihoods in a discrete row are comparable. A mass and a density are not; for a density of
dequantised grey levels see :mod:`pyro_vae.data.dequantisation`.
"""

from pyro_vae.likelihoods.binary import Bernoulli, ContinuousBernoulli
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from pyro_vae.likelihoods.heterogeneous import Heterogeneous
from pyro_vae.likelihoods.levels import Binomial, Categorical, Nominal
from pyro_vae.likelihoods.logistic import DiscretizedLogistic
from pyro_vae.likelihoods.mixture import DiscretizedLogisticMixture
from pyro_vae.likelihoods.output import Likelihood
from pyro_vae.likelihoods.real import Gaussian, GaussianScale, Laplace, StudentT

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "GaussianScale",
    "Heterogeneous",
    "Laplace",
    "Likelihood",
    "NegativeBinomial",
    "Nominal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
