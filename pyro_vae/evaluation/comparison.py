r"""The difference of two models on the same data, datum by datum.

The log-likelihoods of two images differ by tens of nats, those of one image under two good models by one or two. So the
mean of N differences has a far smaller error than each of the two means,

.. math:: d_n = \log p_1(x_n) - \log p_2(x_n), \qquad
          \mathrm{se}(\bar d) = \frac{\mathrm{sd}(d)}{\sqrt N}, \qquad
          p = \mathrm{erfc}\Bigl(\frac{|\bar d|}{\sqrt 2\, \mathrm{se}(\bar d)}\Bigr) .

The error is over the choice of the test data, and p is the chance of so large a mean difference between models that are
equally good, for a normal mean. Values that were estimated by draws have Monte Carlo errors :math:`e_{1n}` and
:math:`e_{2n}` of their own. They are part of the spread of d already; the part of it that more draws would take away is

.. math:: \frac1N \sqrt{\sum_n e_{1n}^2 + e_{2n}^2} .
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.evaluations import Evaluation
from pyro_vae.runtime.arguments import checked
from pyro_vae.runtime.objects import Arrays, Either, Instances

__all__ = ["Comparison", "compare"]

_SIGNIFICANT = 0.05
_Scores = Annotated[
    Any,
    Either(
        "an Evaluation, a LogLikelihood, or a tensor or an array of values (N,)",
        (Instances("a record", (Evaluation, LogLikelihood)), Arrays("an array")),
    ),
]


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`; nats per datum. ``print`` shows it as a sentence.

    Attributes
    ----------
    differences
        What the first has more than the second for each datum, ``(N,)`` in float64.
    mean
        Their mean.
    std_error
        Its standard error over the choice of the data.
    monte_carlo_error
        The part of that error which comes from the draws; NaN where a tensor does not tell.
    p_value
        Two-sided, of the hypothesis that both are equally good.
    num_first_better, num_second_better
        The number of data on which each is better.
    means
        The means of the two.
    caveats
        A sentence for each of the two that is not to be trusted.
    """

    differences: Tensor
    mean: float
    std_error: float
    monte_carlo_error: float
    p_value: float
    num_first_better: int
    num_second_better: int
    means: tuple[float, float]
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        first_leads = self.mean >= 0
        leader, other = ("first", "second") if first_leads else ("second", "first")
        better, worse = (self.num_first_better, self.num_second_better)[:: 1 if first_leads else -1]
        high, low = self.means[:: 1 if first_leads else -1]
        verdict = f"The {leader} is better" if self.p_value < _SIGNIFICANT else f"Neither is better: the {leader} leads"
        monte_carlo = "" if math.isnan(self.monte_carlo_error) else f", {self.monte_carlo_error:.3f} of it Monte Carlo"
        sentence = (
            f"{verdict} by {abs(self.mean):.3f} ± {self.std_error:.3f} nats (p = {self.p_value:.2g}{monte_carlo}), "
            f"{high:.3f} against {low:.3f}; it is better on {better} of {len(self.differences)} data, the {other} on "
            f"{worse}"
        )
        return "\n".join([sentence, *self.caveats])


@checked
def compare(first: _Scores, second: _Scores) -> Comparison:
    r"""Compare two models by what they say of the same data in the same order.

    Parameters
    ----------
    first, second
        What :func:`pyro_vae.evaluate` or :func:`pyro_vae.log_likelihood` returned for each, or tensors or arrays
        ``(N,)`` of values of the data in nats, larger being better. Estimates of log p(x) should have as many
        particles.

    Raises
    ------
    ValueError
        If the two have different numbers of data or fewer than two, or a value is not finite.

    Examples
    --------
    >>> print(compare(torch.tensor([-84.1, -80.3, -90.2, -83.8]), torch.tensor([-84.3, -80.6, -90.1, -84.2])))
    Neither is better: the first leads by 0.200 ± 0.108 nats (p = 0.064), -84.600 against -84.800; it is better on 3 of
    4 data, the second on 1
    """
    values, errors = zip(*map(_values_of, ("first", "second"), (first, second)), strict=True)
    a, b = values
    if len(a) != len(b):
        raise ValueError(f"second: found {len(b)} data, expected as many as the first has, {len(a)}")
    if len(a) < 2:
        raise ValueError("first: found 1 datum, expected 2 or more")
    d = a - b  # (N,)
    mean, std_error = d.mean().item(), d.std().item() / len(d) ** 0.5
    return Comparison(
        differences=d,
        mean=mean,
        std_error=std_error,
        monte_carlo_error=torch.stack(errors).square().sum().sqrt().item() / len(d),
        p_value=_p_value(mean, std_error),
        num_first_better=int((d > 0).sum()),
        num_second_better=int((d < 0).sum()),
        means=(a.mean().item(), b.mean().item()),
        caveats=tuple(
            f"The {which}: {sentence}"
            for which, scores in (("first", first), ("second", second))
            if isinstance(scores, (Evaluation, LogLikelihood)) and (sentence := scores.caveat())
        ),
    )


def _values_of(name: str, scores: Any) -> tuple[Tensor, Tensor]:
    """Return the values of the data and their Monte Carlo errors, ``(N,)`` each in float64 on the CPU."""
    scores = scores.log_likelihood if isinstance(scores, Evaluation) else scores
    values = check_array(scores.values if isinstance(scores, LogLikelihood) else scores, name).double().cpu()
    if values.dim() != 1:
        raise ValueError(f"{name}: found shape {tuple(values.shape)}, expected (N,), a value of each datum")
    errors = scores.std_error if isinstance(scores, LogLikelihood) else torch.full_like(values, math.nan)
    return values, errors.double().cpu()


def _p_value(mean: float, std_error: float) -> float:
    if std_error == 0:  # all differences are the same
        return 1.0 if mean == 0 else 0.0
    return math.erfc(abs(mean) / std_error / 2**0.5)
