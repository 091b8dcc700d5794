r"""Thresholds of anomaly scores, whose rate of false alarms is known without any assumption on the scores.

Let :math:`s_1, \dots, s_n` be the scores of n normal data that the programs were not trained on, higher for more normal
ones. Sort them, and take the k-th smallest as the threshold,

.. math:: t = s_{(k)}, \qquad k = \lfloor \alpha (n + 1) \rfloor .

In terms of :math:`-s`, this is the quantile of level :math:`\lceil (n + 1)(1 - \alpha) \rceil / n` of conformal
prediction. The score s of a further normal datum has each rank among the n + 1 with equal probability, so

.. math:: \Pr(s < t) \le \frac k{n + 1} \le \alpha ,

with equality on the left where no two scores are equal. The probability is over the n data and the new one. Once the n
data are drawn, the rate of false alarms is a fixed number. It is drawn from Beta(k, n + 1 - k), with

.. math:: \text{mean } \frac k{n + 1}, \qquad
          \text{standard deviation } \frac1{n + 1} \sqrt{\frac{k (n + 1 - k)}{n + 2}} .

All this holds if the n data and the new one are exchangeable, and scored alike: with the same programs, number of
particles and correction.

Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005; Vovk, *Conditional validity of inductive
conformal predictors*, 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
import torch

from pyro_vae.data.arrays import as_tensor
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.scoring import Scores
from pyro_vae.runtime.arguments import checked
from pyro_vae.runtime.kinds import Numbers
from pyro_vae.runtime.objects import Arrays, Either, Instances

__all__ = ["Threshold", "threshold"]

_Values = Annotated[
    Any,
    Either(
        "a tensor or an array of scores (N,), or what score or log_likelihood returned",
        (Instances("a record", (Scores, LogLikelihood)), Arrays("an array")),
    ),
]


@dataclass(frozen=True)
class Threshold:
    """A threshold of scores.

    Attributes
    ----------
    value
        The threshold t: lower scores are anomalies.
    false_alarm_rate
        The probability k / (n + 1) that a normal datum is called one; with equal scores, a bound on it.
    rate_spread
        The standard deviation of the rate of false alarms, from one set of n normal data to another.
    """

    value: float
    false_alarm_rate: float
    rate_spread: float

    @checked
    def is_anomaly(self, scores: _Values) -> Any:
        """Return where scores ``(N,)`` are below the threshold, or NaN: an array of booleans for one of NumPy.

        For a tensor, and for what :func:`pyro_vae.score` or :func:`pyro_vae.log_likelihood` returned, it is a tensor.
        """
        found = ~(as_tensor(_values_of(scores), "scores") >= self.value)
        return found.numpy() if isinstance(scores, np.ndarray) else found


def _values_of(scores: Any) -> Any:
    return scores.values if isinstance(scores, (Scores, LogLikelihood)) else scores


@checked
def threshold(
    scores: _Values, false_alarm_rate: Annotated[float, Numbers("a number in (0, 1)", 0, 1, "both")] = 0.05
) -> Threshold:
    """Return a threshold that calls normal data anomalies at most at a given rate.

    Parameters
    ----------
    scores
        The scores ``(N,)`` of normal data that the programs were not trained on, or what :func:`pyro_vae.score` or
        :func:`pyro_vae.log_likelihood` returned for them.
    false_alarm_rate
        The largest rate of false alarms, α.

    Raises
    ------
    ValueError
        If there are fewer than 1/α - 1 scores, which are too few for that rate, if one of them is NaN, or if there is
        not one a datum.

    Examples
    --------
    >>> threshold(torch.arange(100.0), false_alarm_rate=0.05).value  # the 5th smallest
    4.0
    """
    values = as_tensor(_values_of(scores), "scores").detach().double()
    if values.dim() != 1:
        raise ValueError(f"scores: found the shape {tuple(values.shape)}, expected (N,), a score of each datum")
    if bool(values.isnan().any()):
        raise ValueError(f"scores: found NaN at index {int(values.isnan().byte().argmax())}, expected numbers")
    n, rate = len(values), Fraction(str(float(false_alarm_rate)))  # 0.07 is 7/100, and not a little more
    k = math.floor(rate * (n + 1))
    if k == 0:
        raise ValueError(
            f"scores: found {n}, expected at least {math.ceil(1 / rate) - 1} for a false_alarm_rate of "
            f"{false_alarm_rate:g}"
        )
    spread = math.sqrt(k * (n + 1 - k) / (n + 2)) / (n + 1)
    return Threshold(torch.sort(values).values[k - 1].item(), k / (n + 1), spread)
