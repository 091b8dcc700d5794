"""Log-probabilities of single entries by their formulas, in mpmath's numbers of any precision."""

from __future__ import annotations

from collections.abc import Sequence

import mpmath
from mpmath import mpf


def log_sigmoid(x: mpf) -> mpf:
    return -mpmath.log1p(mpmath.exp(-x))


def log_sum_exp(terms: Sequence[mpf]) -> mpf:
    *others, top = sorted(terms)
    return top + mpmath.log1p(mpmath.fsum(mpmath.exp(t - top) for t in others))


def bernoulli(x: mpf, logit: mpf) -> mpf:
    return log_sigmoid(logit if x == 1 else -logit)


def continuous_bernoulli(x: mpf, logit: mpf) -> mpf:
    return logit * (x - mpf(1) / 2) - (mpmath.log(2 * mpmath.sinh(logit / 2) / logit) if logit else 0)


def normal(x: mpf, loc: mpf, scale: mpf) -> mpf:
    return -(((x - loc) / scale) ** 2) / 2 - mpmath.log(scale) - mpmath.log(2 * mpmath.pi) / 2


def laplace(x: mpf, loc: mpf, scale: mpf) -> mpf:
    return -abs(x - loc) / scale - mpmath.log(2 * scale)


def student(x: mpf, df: mpf, loc: mpf, scale: mpf) -> mpf:
    constant = mpmath.loggamma((df + 1) / 2) - mpmath.loggamma(df / 2) - mpmath.log(mpmath.pi * df) / 2
    return constant - mpmath.log(scale) - (df + 1) / 2 * mpmath.log1p(((x - loc) / scale) ** 2 / df)


def softmax(k: mpf, *logits: mpf) -> mpf:
    return logits[int(k)] - log_sum_exp(logits)


def binomial(k: mpf, n: mpf, logit: mpf) -> mpf:
    choices = mpmath.loggamma(n + 1) - mpmath.loggamma(k + 1) - mpmath.loggamma(n - k + 1)
    return choices + k * log_sigmoid(logit) + (n - k) * log_sigmoid(-logit)


def rounded_logistic(k: mpf, top: int, loc: mpf, scale: mpf) -> mpf:
    below, above = log_sigmoid((k - loc + mpf(1) / 2) / scale), log_sigmoid((loc - k + mpf(1) / 2) / scale)
    if k in (0, top):
        return below if k == 0 else above
    return below + above + mpmath.log1p(-mpmath.exp(-1 / scale))


def poisson(x: mpf, rate: mpf) -> mpf:
    return x * mpmath.log(rate) - rate - mpmath.loggamma(x + 1)


def negative_binomial(x: mpf, theta: mpf, logit: mpf) -> mpf:
    gammas = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
    return gammas + theta * log_sigmoid(-logit) + x * log_sigmoid(logit)


def zero_inflated(x: mpf, gate: mpf, log_p: mpf) -> mpf:
    counted = log_sigmoid(-gate) + log_p
    return log_sum_exp([log_sigmoid(gate), counted]) if x == 0 else counted
