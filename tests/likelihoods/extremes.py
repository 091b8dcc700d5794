"""Every likelihood in float32 beside mpmath's 50 digits, at outputs and data as large and as small as they come.

A network's outputs become the float32 parameters of a distribution. These are taken to be exact, and so are the data;
the error is that of the log-probability alone. ``python -m tests.likelihoods.extremes`` prints a line a likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    Heterogeneous,
    Laplace,
    Likelihood,
    NegativeBinomial,
    Nominal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

LOGITS = (-1e4, -100.0, -30.0, -15.0, -3.0, -0.51, -0.49, -1e-3, -1e-30, 0.0, 1e-3, 0.49, 0.7, 2.0, 15.0, 17.0, 90.0)
GATES = (-100.0, -15.0, -1e-3, 0.0, 2.0, 15.0, 80.0)
RATES = (-1e9, -8.0, -1.0, 0.0, 3.0, 6.0, 9.0, 11.5, 13.0, 14.5, 16.0, 30.0, 1e9)  # raw, bounded to 1e-8 ... 1e8
COUNTS = (0.0, 1.0, 2.0, 17.0, 1e3, 8_191.0, 899_000.0, 901_000.0, 5e6, 1e7)
REALS = (-1e30, -1e15, -300.0, -1.0, 0.0, 1e-20, 0.1, 5.0, 1e6, 1e18, 1e25)
WIDE = {"low": 1e-8, "high": 1e8}


class Case(NamedTuple):
    """A likelihood of one entry, ``(N, *output_shape)`` outputs and ``(N, *data_shape)`` data, and what is exact."""

    likelihood: Likelihood
    outputs: Tensor
    values: Tensor
    exact: Callable[[Any, Tensor, int], mpf]  # of the distribution, the outputs and the datum with that index
    rtol: float = 1e-6
    atol: float = 1e-37  # the smallest normal number is 1.2e-38


def _case(likelihood: Likelihood, outputs: Sequence[Any], values: Sequence[float], exact: Any, **tolerance: Any) -> Case:
    """All pairs of outputs and values of one entry."""
    rows = list(product(outputs, values))
    output = torch.tensor([row for row, _ in rows]).reshape(len(rows), *likelihood.output_shape)
    value = torch.tensor([[value] for _, value in rows])
    return Case(likelihood, output, value, lambda p, i: exact(p, output, value[i].item(), i), **tolerance)


def _at(tensor: Tensor, index: int) -> mpf:
    return mpf(tensor[index].item())


def log_sigmoid(x: mpf) -> mpf:
    return -mpmath.log1p(mpmath.exp(-x))


def log_sum(terms: Sequence[mpf]) -> mpf:
    top = max(terms)
    return top + mpmath.log1p(mpmath.fsum(mpmath.exp(t - top) for t in terms) - 1)


def poisson(x: float, rate: mpf) -> mpf:
    return x * mpmath.log(rate) - rate - mpmath.loggamma(mpf(x) + 1)


def negative_binomial(x: float, theta: mpf, logit: mpf) -> mpf:
    gammas = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(mpf(x) + 1)
    return gammas + theta * log_sigmoid(-logit) + x * log_sigmoid(logit)


def binomial(k: int, n: int, logit: mpf) -> mpf:
    choices = mpmath.log(mpmath.binomial(n, k))
    return choices + k * log_sigmoid(logit) + (n - k) * log_sigmoid(-logit)


def bernoulli(x: float, logit: mpf) -> mpf:
    return log_sigmoid(logit if x == 1 else -logit)


def inflated(x: float, gate: mpf, log_p: mpf) -> mpf:
    rest = log_sigmoid(-gate) + log_p
    return log_sum([log_sigmoid(gate), rest]) if x == 0 else rest


def continuous_bernoulli(x: float, logit: mpf) -> mpf:
    return logit * (x - mpf(1) / 2) - (mpmath.log(2 * mpmath.sinh(logit / 2) / logit) if logit else 0)


def normal(x: float, loc: mpf, scale: mpf) -> mpf:
    return -(((x - loc) / scale) ** 2) / 2 - mpmath.log(scale) - mpmath.log(2 * mpmath.pi) / 2


def laplace(x: float, loc: mpf, scale: mpf) -> mpf:
    return -abs(x - loc) / scale - mpmath.log(2 * scale)


def student(x: float, df: mpf, loc: mpf, scale: mpf) -> mpf:
    constant = mpmath.loggamma((df + 1) / 2) - mpmath.loggamma(df / 2) - mpmath.log(mpmath.pi * df) / 2
    return constant - mpmath.log(scale) - (df + 1) / 2 * mpmath.log1p(((x - loc) / scale) ** 2 / df)


def softmax(index: int, logits: Sequence[mpf]) -> mpf:
    return logits[index] - log_sum(logits)


def rounded_logistic(k: int, top: int, loc: mpf, scale: mpf) -> mpf:
    below, above = log_sigmoid((k - loc + mpf(1) / 2) / scale), log_sigmoid((loc - k + mpf(1) / 2) / scale)
    if k in (0, top):
        return below if k == 0 else above
    return below + above + mpmath.log1p(-mpmath.exp(-1 / scale))


def _cases() -> Iterator[tuple[str, Case]]:
    one = (1,)
    yield (
        "Bernoulli",
        _case(Bernoulli(None, one), LOGITS, (0.0, 1.0), lambda p, o, x, i: bernoulli(x, _at(p.logits[:, 0], i))),
    )
    yield (
        "ContinuousBernoulli",
        _case(
            ContinuousBernoulli(None, one),
            LOGITS,
            (0.0, 1e-30, 0.1, 0.5, 0.9, 1.0),
            lambda p, o, x, i: continuous_bernoulli(x, _at(p.logits[:, 0], i)),
        ),
    )
    places = list(product((-1e6, 0.0, 0.3, 250.0), (-1e9, 0.0, 1e9)))
    located = {"Gaussian": (Gaussian, normal), "Laplace": (Laplace, laplace)}
    for name, (make, formula) in located.items():
        yield (
            name,
            _case(
                make(None, one),
                places,
                REALS[1:-2],
                lambda p, o, x, i, formula=formula: formula(x, _at(p.loc[:, 0], i), _at(p.scale[:, 0], i)),
            ),
        )
    for df in (1.001, 4.0, 1e3, 1e7):
        yield (
            f"StudentT, df = {df:g}",
            _case(
                StudentT(None, one, df=df),
                places,
                REALS,
                lambda p, o, x, i: student(x, _at(p.df[:, 0], i), _at(p.loc[:, 0], i), _at(p.scale[:, 0], i)),
            ),
        )
    rows = [[0.0, 0.0, 0.0, 0.0], [1e5, 1e5 - 1, 1e5 + 3, 9e4], [-30.0, -30.5, -31.0, 20.0], [15.0, 0.0, -1e30, 1e-3]]
    for name, part, scale in (("Categorical", Categorical(None, one, 4), 3), ("Nominal", Nominal(None, one, 4), 1)):
        yield (
            name,
            _case(
                part,
                rows,
                [k / scale for k in range(4)],
                lambda p, o, x, i, scale=scale: softmax(round(x * scale), [mpf(v) for v in o[i].flatten().tolist()]),
            ),
        )
    for n in (1, 16, 10_000, 10_000_000):
        yield (
            f"Binomial, n = {n:,}",
            _case(
                Binomial(None, one, n),
                LOGITS,
                sorted({k / n for k in (0, 1, n // 2, n // 3, n - 1, n)}),
                lambda p, o, x, i, n=n: binomial(round(x * n), n, _at(p.levels.logits[:, 0], i)),
            ),
        )
    levels = (0, 1, 100, 254, 255)
    places = list(product((-1e3, -1.0, -0.2157, 0.0, 0.9, 1.0), (-1e9, 0.0, 1e9)))
    yield (
        "DiscretizedLogistic",
        _case(
            DiscretizedLogistic(None, one),
            places,
            [k / 255 for k in levels],
            lambda p, o, x, i: rounded_logistic(
                round(x * 255), 255, _at(p.levels.loc[:, 0], i), _at(p.levels.scale[:, 0], i)
            ),
        ),
    )
    mixed = [(-w, w, *locs, raw, -raw) for w in (-500.0, 0.0, 15.0) for locs in ((-1.0, 1.0), (0.1, 0.1)) for raw in (-1e9, -3.0)]

    def mixture(p: Any, o: Tensor, x: float, i: int) -> mpf:
        logits = [mpf(v) for v in o[i].flatten().tolist()[:2]]
        loc, scale = (t[i, 0] for t in (p.levels.component_distribution.loc, p.levels.component_distribution.scale))
        return log_sum(
            [softmax(c, logits) + rounded_logistic(round(x * 255), 255, _at(loc, c), _at(scale, c)) for c in range(2)]
        )

    yield (
        "DiscretizedLogisticMixture",
        _case(DiscretizedLogisticMixture(None, one, 2), mixed, [k / 255 for k in levels], mixture),
    )
    yield "its colour", _colour()
    poissons = {"Poisson": Poisson(None, one, **WIDE)}
    yield (
        "Poisson",
        _case(Poisson(None, one, **WIDE), RATES, COUNTS, lambda p, o, x, i: poisson(x, _at(p.rate[:, 0], i))),
    )
    raws = list(product(RATES, (-1e9, 0.0, 1e9)))

    def given(p: Any, x: float, i: int) -> mpf:
        return negative_binomial(x, _at(p.total_count[:, 0], i), _at(p.logits[:, 0], i))

    yield (
        "NegativeBinomial",
        _case(NegativeBinomial(None, one, "decoder", **WIDE), raws, COUNTS, lambda p, o, x, i: given(p, x, i)),
    )
    yield (
        "ZeroInflatedPoisson",
        _case(
            ZeroInflatedPoisson(None, one, **WIDE),
            list(product(GATES, RATES)),
            (0.0, 1.0, 5e6),
            lambda p, o, x, i: inflated(x, _at(p.gate_logits[:, 0], i), poisson(x, _at(p.base_dist.rate[:, 0], i))),
        ),
    )
    yield (
        "ZeroInflatedNegativeBinomial",
        _case(
            ZeroInflatedNegativeBinomial(None, one, "decoder", **WIDE),
            [(gate, *raw) for gate, raw in product(GATES, raws)],
            (0.0, 5e6),
            lambda p, o, x, i: inflated(x, _at(p.gate_logits[:, 0], i), given(p.base_dist, x, i)),
        ),
    )
    yield "Heterogeneous", _table()


def _colour() -> Case:
    part = DiscretizedLogisticMixture(None, (3, 1, 1), 2)
    generator = torch.Generator().manual_seed(0)
    outputs = 2 * torch.randn(60, *part.output_shape, generator=generator)
    values = torch.randint(0, 256, (60, 3, 1, 1), generator=generator) / 255

    def exact(p: Any, i: int) -> mpf:
        k = [round(v * 255) for v in values[i].flatten().tolist()]
        shifted = [v - mpf(255) / 2 for v in k]
        logits = [mpf(v) for v in outputs[i, [0, 10]].flatten().tolist()]
        terms = []
        for c in range(2):
            loc, scale, coupling = ([mpf(v) for v in t[i, c].flatten().tolist()] for t in (p.loc, p.scale, p.coupling))
            loc[1] += coupling[0] * shifted[0]
            loc[2] += coupling[1] * shifted[0] + coupling[2] * shifted[1]
            channels = (rounded_logistic(k[j], 255, loc[j], scale[j]) for j in range(3))
            terms.append(softmax(c, logits) + mpmath.fsum(channels))
        return log_sum(terms)

    return Case(part, outputs, values, exact)


def _table() -> Case:
    parts = [
        Gaussian(None, (1,), scale="decoder"),
        Bernoulli(None, (1,)),
        Nominal(None, (1,), 2),
        ZeroInflatedPoisson(None, (1,), **WIDE),
        Binomial(None, (1,), 10_000_000),
    ]
    part = Heterogeneous(None, parts)
    rows = product((0.3, -1e3), (15.0,), (9.0, 1e5), (0.0,), (-15.0, 1.0), (14.0, 16.0), (1e-3, 9.0))
    outputs = torch.tensor([(loc, 0.5, b, n, m, gate, raw, k) for loc, b, n, m, gate, raw, k in rows])
    values = torch.tensor([[0.1, 1.0, 0.0, 899_000.0, 0.25]]).expand(len(outputs), 5)

    def exact(p: Any, i: int) -> mpf:
        gaussian, _, _, count, _ = (group.base_dist for group in p.groups)
        x = values[i].tolist()
        b, n, m, gate, _, k = (mpf(v) for v in outputs[i, 2:].tolist())
        return mpmath.fsum(
            [
                normal(x[0], _at(gaussian.loc[:, 0], i), _at(gaussian.scale[:, 0], i)),
                bernoulli(x[1], b),
                softmax(0, [n, m]),
                inflated(x[3], gate, poisson(x[3], _at(count.base_dist.rate[:, 0], i))),
                binomial(2_500_000, 10_000_000, k),
            ]
        )

    return Case(part, outputs, values, exact)


CASES = dict(_cases())


class Errors(NamedTuple):
    """Errors of each datum, ``(N,)``, and what is exact."""

    found: Tensor
    exact: list[mpf]
    absolute: list[float]
    relative: list[float]


def errors(name: str) -> Errors:
    """What the likelihood says beside what is exact."""
    case = CASES[name]
    p = case.likelihood.from_output(case.outputs)
    found = p.log_prob(case.values).detach()
    base = getattr(p, "base_dist", p)
    with mpmath.workdps(50):
        exact = [case.exact(base, i) for i in range(len(found))]
        absolute = [abs(mpf(f) - e) for f, e in zip(found.tolist(), exact, strict=True)]
        relative = [float(a / abs(e)) if abs(e) > case.atol else 0.0 for a, e in zip(absolute, exact, strict=True)]
    return Errors(found, exact, [float(a) for a in absolute], relative)


if __name__ == "__main__":
    for name, case in CASES.items():
        found, exact, absolute, relative = errors(name)
        a, r = (max(range(len(found)), key=list_.__getitem__) for list_ in (absolute, relative))
        print(f"{name:30} {relative[r]:8.1e} relative, at {float(exact[r]):10.3e}; {absolute[a]:8.1e} nats, at {float(exact[a]):10.3e}")
