r"""The difference of two models on the same data, datum by datum.

The log-likelihoods of two images differ by tens of nats, those of one image under two good models by one or two. So the
mean of N differences has a far smaller error than each of the two means,

.. math:: d_n = \log p_1(x_n) - \log p_2(x_n), \qquad
          \mathrm{se}(\bar d) = \frac{\mathrm{sd}(d)}{\sqrt N}, \qquad
          p = \Pr\Bigl(|t_{N-1}| > \frac{|\bar d|}{\mathrm{se}(\bar d)}\Bigr) .

The error is over the choice of the test data, and p is the chance of so large a mean difference between models that are
equally good. It is that of Student's t: exact where the differences are normal, and for many data where they are not.
Values that were estimated by draws have Monte Carlo errors :math:`e_{1n}` and
:math:`e_{2n}` of their own. They are part of the spread of d already; the part of it that more draws would take away is

.. math:: \frac1N \sqrt{\sum_n e_{1n}^2 + e_{2n}^2} .
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vae.data.arrays import check_array
from pyro_vae.display import Result, ResultTable, rounded, rounded_error, with_error
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


@dataclass(frozen=True, repr=False)
class Comparison(Result):
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
        A sentence for each of the two that is not to be trusted, and one if they have unequal numbers of particles.
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
        verdict = f"The {leader} is better" if self.p_value < _SIGNIFICANT else f"Neither is better: the {leader} leads"
        drawn = rounded_error(self.monte_carlo_error)
        monte_carlo = "" if math.isnan(self.monte_carlo_error) else f", {drawn} of it Monte Carlo"
        high, low = (rounded(mean, self.std_error)[0] for mean in self.means[:: 1 if first_leads else -1])
        sentence = (
            f"{verdict} by {with_error(abs(self.mean), self.std_error)} nats (p = {self.p_value:.2g}{monte_carlo}), "
            f"{high} against {low}; it is better on {better} of {len(self.differences)} data, the {other} on "
            f"{worse}"
        )
        return "\n".join([sentence, *self.caveats])

    def plot(self) -> Any:
        """Return a histogram of the differences, see :func:`pyro_vae.plots.differences`."""
        from pyro_vae.plots import differences  # only here, as it needs matplotlib

        return differences(self)

    def _table(self) -> ResultTable:
        means = [rounded(mean, self.std_error)[0] for mean in self.means]
        better = [str(self.num_first_better), str(self.num_second_better)]
        rows = [(name, *cells, "") for name, *cells in zip(("first", "second"), means, better, strict=True)]
        figure, error = rounded(self.mean, self.std_error)
        rows.append(("first - second", figure, "", error))
        drawn = "" if math.isnan(self.monte_carlo_error) else f", {rounded_error(self.monte_carlo_error)} Monte Carlo"
        notes = [f"p = {self.p_value:.2g}, {len(self.differences)} data; ± is over the choice of data{drawn}"]
        return ResultTable(("", "nats per datum", "better on", "±"), rows, notes=[*notes, *self.caveats])

    def _columns(self) -> dict[str, Any]:
        return {"difference": self.differences}


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
        If the two have different numbers of data or fewer than two, data of different sizes, or a value is not finite.

    Examples
    --------
    >>> print(compare(torch.tensor([-84.1, -80.3, -90.2, -83.8]), torch.tensor([-84.3, -80.6, -90.1, -84.2])))
    Neither is better: the first leads by 0.20 ± 0.11 nats (p = 0.16), -84.60 against -84.80; it is better on 3 of 4
    data, the second on 1
    """
    values, errors = zip(*map(_values_of, ("first", "second"), (first, second)), strict=True)
    a, b = values
    if len(a) != len(b):
        raise ValueError(f"second: found {len(b)} data, expected as many as the first has, {len(a)}")
    if len(a) < 2:
        raise ValueError("first: found 1 datum, expected 2 or more")
    likelihoods = [each.log_likelihood if isinstance(each, Evaluation) else each for each in (first, second)]
    _check_same_size(*likelihoods)
    d = a - b  # (N,)
    mean, std_error = d.mean().item(), d.std().item() / len(d) ** 0.5
    return Comparison(
        differences=d,
        mean=mean,
        std_error=std_error,
        monte_carlo_error=torch.stack(errors).square().sum().sqrt().item() / len(d),
        p_value=_p_value(mean, std_error, len(d) - 1),
        num_first_better=int((d > 0).sum()),
        num_second_better=int((d < 0).sum()),
        means=(a.mean().item(), b.mean().item()),
        caveats=(
            *(
                f"The {which}: {sentence}"
                for which, scores in (("first", first), ("second", second))
                if isinstance(scores, (Evaluation, LogLikelihood)) and (sentence := scores.caveat())
            ),
            *_unequal_particles(*likelihoods),
        ),
    )


def _check_same_size(first: Any, second: Any) -> None:
    size, other = (getattr(each, "num_dims", math.nan) for each in (first, second))  # values alone have none
    if abs(size - other) > 1e-9 * size:
        raise ValueError(f"second: found data of {other:g} dimensions, expected those of the first, {size:g}")


def _unequal_particles(first: Any, second: Any) -> list[str]:
    numbers = [getattr(each, "num_particles", None) for each in (first, second)]
    if None in numbers or numbers[0] == numbers[1]:
        return []
    return [f"The first has {numbers[0]} particles, the second {numbers[1]}: the estimate by fewer is the lower one"]


def _values_of(name: str, scores: Any) -> tuple[Tensor, Tensor]:
    """Return the values of the data and their Monte Carlo errors, ``(N,)`` each in float64 on the CPU."""
    scores = scores.log_likelihood if isinstance(scores, Evaluation) else scores
    values = check_array(scores.values if isinstance(scores, LogLikelihood) else scores, name).double().cpu()
    if values.dim() != 1:
        raise ValueError(f"{name}: found shape {tuple(values.shape)}, expected (N,), a value of each datum")
    errors = scores.std_error if isinstance(scores, LogLikelihood) else torch.full_like(values, math.nan)
    return values, errors.double().cpu()


def _p_value(mean: float, std_error: float, num_free: int) -> float:
    """Return the two-sided p value of Student's t."""
    if std_error == 0:  # all differences are the same
        return 1.0 if mean == 0 else 0.0
    square = (mean / std_error) ** 2
    log_x, log_y = -math.log1p(square / num_free), -math.log1p(num_free / square) if square else -math.inf
    if square < 1:
        return 1 - _incomplete_beta(0.5, num_free / 2, log_y, log_x)
    return _incomplete_beta(num_free / 2, 0.5, log_x, log_y)


def _incomplete_beta(a: float, b: float, log_x: float, log_y: float) -> float:
    """Return the regularised incomplete beta function of x = 1 - y, by its continued fraction (DLMF 8.17.22)."""
    x, above, below, fraction = math.exp(log_x), math.inf, 1.0, 1.0
    for n in itertools.count(1):
        m = n // 2
        term = m * (b - m) / (a + 2 * m - 1) if n % 2 == 0 else -(a + m) * (a + b + m) / (a + 2 * m + 1)
        term *= x / (a + 2 * m)
        above, below = 1 + term / above, 1 / (1 + term * below)
        fraction *= above * below
        if abs(above * below - 1) < 1e-14:
            break
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return fraction * math.exp(a * log_x + b * log_y - log_beta) / a
