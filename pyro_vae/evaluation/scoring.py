r"""Scores of how normal a datum is: log p(x), or a correction of it, higher for data that are more normal.

Density models of images call some data normal that no one would: a model of clothes gives digits a higher density than
clothes, since digits are simpler images. What the literature does about it, as ``correction``:

======================  ==========================================  =======================
``correction``          score                                       of
======================  ==========================================  =======================
``None``                :math:`\log p(x)`                           Bishop, 1994
``"likelihood_ratio"``  :math:`\log p(x) - \log p_0(x)`             Ren et al., 2019
``"complexity"``        :math:`\log p(x) + L(x)`                    Serrà et al., 2020
``"typicality"``        :math:`-\bigl|\log p(x) - \ell\bigr|`       Nalisnick et al., 2019
======================  ==========================================  =======================

* *Likelihood ratio.* :math:`p_0` is a model of what normal and abnormal data share, such as one that was trained on
  data with some pixels replaced by noise. The ratio is left with what is particular to normal data.
* *Complexity.* L(x) is the length of a lossless code of x, in nats, :mod:`pyro_vae.evaluation.code_lengths`. As
  :math:`-L(x)` is the log-probability of x under a universal model, this is a ratio too. For a density instead of a
  probability, it is off by the same constant for all data.
* *Typicality.* :math:`\ell` is the mean of log p(x) over training data. In many dimensions, data of a model do not lie
  where its density is highest. A score that is too high is as suspicious as one that is too low.

Estimates have Monte Carlo errors, which are added in squares where two of them are subtracted.

Ren, Liu, Fertig, Snoek, Poplin, DePristo, Dillon and Lakshminarayanan, *Likelihood Ratios for Out-of-Distribution
Detection*, 2019; Serrà, Álvarez, Gómez, Slizovskaia, Núñez and Luque, *Input complexity and out-of-distribution
detection with likelihood-based generative models*, 2020; Nalisnick, Matsukawa, Teh and Lakshminarayanan, *Detecting
Out-of-Distribution Inputs to Deep Generative Models Using Typicality*, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data.arrays import as_tensor
from pyro_vae.data.conversion import as_batches
from pyro_vae.display import Result, ResultTable
from pyro_vae.evaluation.code_lengths import code_lengths
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.repeated import RepeatedLikelihood
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked

__all__ = ["Correction", "Scorer", "Scores", "score"]

Correction = Literal["likelihood_ratio", "complexity", "typicality"]
Background = Annotated[Sequence[StochasticFunction], "a pair (model, guide)"]


class _Scores(NamedTuple):
    values: Tensor
    std_error: Tensor
    log_likelihood: LogLikelihood


class Scores(Result, _Scores):
    """Scores of N data, higher for data that are more normal.

    Attributes
    ----------
    values
        The scores ``(N,)``, nats.
    std_error
        Their Monte Carlo standard errors ``(N,)``, nats.
    log_likelihood
        The estimates of log p(x) under the model, with what tells how far to trust them.
    """

    def plot(self) -> Any:
        """Return a histogram of the scores, see :func:`pyro_vae.plots.scores`."""
        from pyro_vae.plots import scores  # only here, as it needs matplotlib

        return scores(self)

    def _table(self) -> ResultTable:
        values = self.values.double()
        found = (values.min(), values.median(), values.max(), self.std_error.double().square().mean().sqrt())
        row = ("score", *(f"{value.item():.2f}" for value in found[:3]), f"{found[3].item():.2g}")
        notes = list(filter(None, (self.log_likelihood.caveat(),)))
        header = ("nats", "lowest", "median", "highest", "± of one")
        return ResultTable(header, [row], f"Scores of {len(values)} data, higher is more normal", notes)

    def _columns(self) -> dict[str, Any]:
        return {"score": self.values, "std_error": self.std_error, "khat": self.log_likelihood.khat}


class Scorer:
    """A function of data that scores them, and checks the programs only once.

    Parameters
    ----------
    model, guide
        A pair of programs.
    num_particles
        The number K of importance samples of each datum.
    correction
        What is done to log p(x), see :mod:`pyro_vae.evaluation.scoring`.
    background
        The pair ``(model, guide)`` of :math:`p_0`, for ``"likelihood_ratio"``.
    reference
        Training data, or the mean of their log p(x) as a number, for ``"typicality"``.
    compile
        Compile the programs for batches of the size of the first. That takes seconds, and pays for thousands of calls.
    seed
        Seeds the draws of each call, so that the same data have the same scores. ``None`` draws on.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If what a correction needs is missing or another's is given; when called, as
        :func:`~pyro_vae.evaluation.likelihood.log_likelihood` does.

    Examples
    --------
    >>> import torch
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> scorer = Scorer(vae.model, vae.guide, num_particles=100, seed=0)
    >>> [scorer(datum[None]).values.shape for datum in torch.zeros(2, 4)]
    [torch.Size([1]), torch.Size([1])]
    """

    @checked
    def __init__(
        self,
        model: StochasticFunction,
        guide: StochasticFunction,
        num_particles: PositiveInteger = 100,
        *,
        correction: Correction | None = None,
        background: Background | None = None,
        reference: Any = None,
        compile: bool = False,
        seed: Seed | None = None,
    ) -> None:
        _check_given("background", background, correction, "likelihood_ratio", _PAIR)
        _check_given("reference", reference, correction, "typicality", "training data, or the mean of their log p(x)")
        if background is not None and len(background) != 2:
            raise ValueError(f"background: found {len(background)} entries, expected {_PAIR}")
        self.correction = correction
        self._likelihood = RepeatedLikelihood(model, guide, num_particles, compile, seed)
        self._background = None
        if background is not None:
            self._background = RepeatedLikelihood(background[0], background[1], num_particles, compile, seed)
        self._mean, self._mean_error = self._reference(reference)

    def __call__(self, data: AnyData) -> Scores:
        """Return the scores of data ``(N, *data_shape)``."""
        estimate = self._likelihood(data)
        values, error = estimate.values, estimate.std_error
        if self._background is not None:
            other = self._background(data)
            values, error = values - other.values, (error.square() + other.std_error.square()).sqrt()
        elif self.correction == "complexity":
            if not isinstance(data, (Tensor, np.ndarray)):
                raise TypeError(
                    f"data: found {type(data).__name__} with correction='complexity', expected a tensor or an array"
                )
            values = values + code_lengths(as_tensor(data, "data"), "data").to(values.device)
        elif self.correction == "typicality":
            values, error = -(values - self._mean).abs(), (error.square() + self._mean_error**2).sqrt()
        return Scores(values, error, estimate)

    def _reference(self, reference: Any) -> tuple[float, float]:
        if reference is None or isinstance(reference, (int, float)):
            if not math.isfinite(reference or 0.0):
                raise ValueError(f"reference: found {reference}, expected a finite number, the mean of log p(x)")
            return float(reference or 0.0), 0.0
        if isinstance(reference, DataLoader):  # in any order, since only the mean is used
            device, dtype = self._likelihood.programs.placement()
            programs = (self._likelihood.programs.model, self._likelihood.programs.guide)
            reference = as_batches(reference, 1, device=device, dtype=dtype, shuffle=False, programs=programs)
        estimate = self._likelihood(reference)
        return estimate.mean(), estimate.mean_error()


_PAIR = "a pair (model, guide) of another model"


def _check_given(name: str, given: Any, correction: str | None, needed_by: str, expected: str) -> None:
    if correction == needed_by and given is None:
        raise ValueError(f"{name}: found None with correction={correction!r}, expected {expected}")
    if correction != needed_by and given is not None:
        raise ValueError(f"correction: found {correction!r} with {name} given, expected {needed_by!r}")


@checked
def score(
    model: StochasticFunction,
    guide: StochasticFunction,
    data: AnyData,
    num_particles: PositiveInteger = 100,
    *,
    correction: Correction | None = None,
    background: Background | None = None,
    reference: Any = None,
    seed: Seed | None = None,
) -> Scores:
    r"""Score how normal each datum is, by its log p(x) or a correction of it: higher is more normal.

    .. math:: \log \hat p(x_b) = \log \frac1K \sum_k \frac{p(x_b, z_{kb})}{q(z_{kb}|x_b)}, \quad z_{kb} \sim q(z|x_b)

    ``score`` is one call of a :class:`Scorer`, which has the arguments and errors. To score data as they come, make the
    scorer once.

    Parameters
    ----------
    data
        Data ``(N, *data_shape)``, of any kind that :func:`pyro_vae.log_likelihood` takes.

    Examples
    --------
    >>> import torch
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> x = torch.bernoulli(torch.full((10, 4), 0.5))
    >>> score(vae.model, vae.guide, x, correction="typicality", reference=x, seed=0).values.max() <= 0
    tensor(True)
    """
    scorer = Scorer(
        model, guide, num_particles, correction=correction, background=background, reference=reference, seed=seed
    )
    return scorer(data)
