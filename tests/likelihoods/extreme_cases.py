"""Every likelihood with outputs and data as large and as small as they come, and its exact log-probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

from pyro_vae import likelihoods as package
from pyro_vae.likelihoods import Likelihood
from pyro_vae.nn.scales import bounded_scale, inverse_bounded_scale
from tests.likelihoods import formulas

LOGITS = (-1e4, -100.0, -30.0, -15.0, -3.0, -0.51, -0.49, -1e-3, -1e-30, 0.0, 1e-3, 0.49, 0.7, 2.0, 15.0, 17.0, 90.0)
GATES = (-100.0, -15.0, -1e-3, 0.0, 2.0, 15.0, 80.0)
RAW = (-1e9, 0.0, 1e9)  # the lower bound of a scale, its middle, the upper bound
RAW_RATES = (-1e9, -8.0, -1.0, 0.0, 3.0, 6.0, 9.0, 11.5, 13.0, 14.5, 16.0, 30.0, 1e9)
WIDE = {"low": 1e-8, "high": 1e8}
RATES = bounded_scale(torch.tensor(RAW_RATES), **WIDE).tolist()
NEAR = {float(round(rate + z * rate**0.5)) for rate in RATES for z in (0, 3) if 1 < rate < 9e6}
COUNTS = sorted(NEAR | {0.0, 1.0, 2.0, 17.0, 8_191.0, 5e6, 1e7})
NORMAL = 1e-37  # numbers from here on have all of float32's digits
REALS = (-1e15, -300.0, -1.0, 0.0, 1e-20, 0.1, 5.0, 1e6)
FAR = (-1e30, *REALS, 1e18, 1e25)
BYTES = [k / 255 for k in (0, 1, 100, 254, 255)]
SOFTMAX = [[0.0, 0.0, 0.0, 0.0], [1e5, 1e5 - 1, 1e5 + 3, 9e4], [-30.0, -30.5, -31.0, 20.0], [15.0, 0.0, -1e30, 1e-3]]
MIXED = [(-w, w, *at, s, -s) for w, at, s in product((-500.0, 0.0, 15.0), ((-1.0, 1.0), (0.1, 0.1)), (-1e9, -3.0))]


class Case(NamedTuple):
    """A likelihood with outputs ``(N, *output_shape)`` and data ``(N, *data_shape)``."""

    likelihood: Likelihood
    outputs: Tensor
    values: Tensor
    exact: Callable[[Any, int], mpf]  # of the distribution and the number of a datum
    smallest: float = 1.0  # errors are relative to log p, or to this where log p is closer to 0
    tolerance: float = 1e-6


def _numbers(tensor: Tensor) -> list[mpf]:
    return [mpf(number) for number in tensor.flatten().tolist()]


def _pairs(
    likelihood: Likelihood,
    outputs: Sequence[Any],
    values: Sequence[float],
    parameters: Callable[[Any, Tensor], Sequence[Tensor]],
    formula: Callable[..., mpf],
    top: int = 0,
    smallest: float = 1.0,
) -> Case:
    """A likelihood of one entry at all pairs of outputs and values.

    ``parameters(distribution, outputs)`` are those of the ``formula`` after the value; of levels that value is k.
    """
    rows = list(product(outputs, values))
    output = torch.tensor([row for row, _ in rows]).reshape(len(rows), *likelihood.output_shape)
    value = torch.tensor([[value] for _, value in rows])

    def exact(p: Any, index: int) -> mpf:
        x = value[index].item()
        numbers = (tensor[index] for tensor in parameters(p, output))
        return formula(mpf(round(x * top) if top else x), *(mpf(number.item()) for number in numbers))

    return Case(likelihood, output, value, exact, smallest)


def _location_scale(part: Likelihood, values: Sequence[float], formula: Callable[..., mpf], *names: str) -> Case:
    outputs = list(product((-1e6, 0.0, 0.3, 250.0), RAW))
    return _pairs(part, outputs, values, lambda p, _: [getattr(p, name) for name in names], formula)


def _softmax(part: Likelihood, top: int) -> Case:
    return _pairs(part, SOFTMAX, [k / top for k in range(4)], lambda _, o: o.flatten(1).T, formulas.softmax, top)


def _binomial(n: int) -> Case:
    modes = {round(n / (1 + math.exp(-logit))) for logit in LOGITS if abs(logit) < 20}
    values = [k / n for k in sorted(modes | {0, 1, n // 3, n})]

    def formula(k: mpf, logit: mpf) -> mpf:
        return formulas.binomial(k, mpf(n), logit)

    part = package.Binomial(None, (1,), n)
    return _pairs(part, LOGITS, values, lambda p, _: [p.levels.logits], formula, n, smallest=NORMAL)


def _mixture() -> Case:
    def formula(k: mpf, *numbers: mpf) -> mpf:
        logits, locs, scales = numbers[:2], numbers[2:4], numbers[4:]
        components = [formulas.rounded_logistic(k, 255, loc, s) for loc, s in zip(locs, scales, strict=True)]
        return formulas.log_sum_exp([formulas.softmax(mpf(c), *logits) + components[c] for c in range(2)])

    def parameters(p: Any, outputs: Tensor) -> list[Tensor]:
        component = p.levels.component_distribution
        return [*outputs[:, :2, 0].T, *component.loc[:, 0].T, *component.scale[:, 0].T]

    return _pairs(package.DiscretizedLogisticMixture(None, (1,), 2), MIXED, BYTES, parameters, formula, 255)


def _colour() -> Case:
    """Colour pixels that are likely, half of them at the smallest scale, and others that are not.

    The location of green and blue is a sum in float32: it is right to 2⁻¹⁷ of 255 levels, at a scale of an eighth of a
    level to 1e-4 scales. A network's location is no more exact.
    """
    part = package.DiscretizedLogisticMixture(None, (3, 1, 1), 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = 2 * torch.randn(100, *part.output_shape)
        outputs[::2, [4, 5, 6, 14, 15, 16]] = -1e9
        values = part.from_output(outputs).sample()
        values[70:] = torch.randint(0, 256, (30, 3, 1, 1)) / 255

    def exact(p: Any, index: int) -> mpf:
        k = [mpf(round(v * 255)) for v in values[index].flatten().tolist()]
        red, green, _ = (level - mpf(255) / 2 for level in k)
        logits = _numbers(outputs[index, [0, 10]])
        terms = []
        for c in range(2):
            loc, scale, (alpha, beta, gamma) = (_numbers(t[index, c]) for t in (p.loc, p.scale, p.coupling))
            loc = [loc[0], loc[1] + alpha * red, loc[2] + beta * red + gamma * green]
            channels = [formulas.rounded_logistic(*each) for each in zip(k, (255,) * 3, loc, scale, strict=True)]
            terms.append(formulas.softmax(mpf(c), *logits) + mpmath.fsum(channels))
        return formulas.log_sum_exp(terms)

    return Case(part, outputs, values, exact, tolerance=1e-4)


def _inflated(
    part: Likelihood, raw: Sequence[Any], values: Sequence[float], names: Sequence[str], formula: Any
) -> Case:
    outputs = [(gate, *others) for gate, others in product(GATES, raw)]
    return _pairs(
        part,
        outputs,
        values,
        lambda p, _: [p.gate_logits, *(getattr(p.base_dist, name) for name in names)],
        lambda x, gate, *others: formulas.zero_inflated(x, gate, formula(x, *others)),
        smallest=NORMAL,
    )


def _table() -> Case:
    n = 10_000_000
    parts = [
        package.Gaussian(None, (1,), scale="decoder"),
        package.Bernoulli(None, (1,)),
        package.Nominal(None, (1,), 2),
        package.ZeroInflatedPoisson(None, (1,), **WIDE),
        package.Binomial(None, (1,), n),
    ]
    near = inverse_bounded_scale(torch.tensor(899_000.0), **WIDE).item()
    rows = product((0.3, -1e3), (0.5,), (15.0,), (9.0, 1e5), (0.0,), (-15.0, 1.0), (near, 19.0), (-1.0986, 9.0))
    outputs = torch.tensor(list(rows))
    values = torch.tensor([0.1, 1.0, 0.0, 899_000.0, 0.25]).expand(len(outputs), 5)

    def exact(p: Any, index: int) -> mpf:
        gaussian, counts = p.groups[0].base_dist, p.groups[3].base_dist.base_dist
        _, _, black, *logits, gate, _, success = _numbers(outputs[index])
        x, _, _, count, _ = _numbers(values[index])
        columns = [
            formulas.normal(x, *_numbers(gaussian.loc[index]), *_numbers(gaussian.scale[index])),
            formulas.bernoulli(1, black),
            formulas.softmax(0, *logits),
            formulas.zero_inflated(count, gate, formulas.poisson(count, *_numbers(counts.rate[index]))),
            formulas.binomial(mpf(n // 4), mpf(n), success),
        ]
        return mpmath.fsum(columns)

    return Case(package.Heterogeneous(None, parts), outputs, values, exact)


def _one(make: Any, *arguments: Any, **others: Any) -> Likelihood:
    return make(None, (1,), *arguments, **others)


_NB = ("total_count", "logits")
_RAW_NB = list(product(RAW_RATES, RAW))
_CLOSED = (0.0, 1e-30, 0.1, 0.5, 0.9, 1.0)
CASES = {
    "Bernoulli": _pairs(_one(package.Bernoulli), LOGITS, (0.0, 1.0), lambda p, _: [p.logits], formulas.bernoulli),
    "ContinuousBernoulli": _pairs(
        _one(package.ContinuousBernoulli), LOGITS, _CLOSED, lambda p, _: [p.logits], formulas.continuous_bernoulli
    ),
    "Gaussian": _location_scale(_one(package.Gaussian), REALS, formulas.normal, "loc", "scale"),
    "Laplace": _location_scale(_one(package.Laplace), REALS, formulas.laplace, "loc", "scale"),
    **{
        f"StudentT, df = {df:g}": _location_scale(
            _one(package.StudentT, df=df), FAR, formulas.student, "df", "loc", "scale"
        )
        for df in (1.001, 4.0, 1e3, 1e7)
    },
    "Categorical": _softmax(_one(package.Categorical, 4), 3),
    "Nominal": _softmax(_one(package.Nominal, 4), 1),
    **{f"Binomial, n = {n:,}": _binomial(n) for n in (1, 16, 10_000, 10_000_000)},
    "DiscretizedLogistic": _pairs(
        _one(package.DiscretizedLogistic),
        list(product((-1e3, -1.0, -0.2157, 0.0, 0.9, 1.0), RAW)),
        BYTES,
        lambda p, _: [p.levels.loc, p.levels.scale],
        lambda k, loc, scale: formulas.rounded_logistic(k, 255, loc, scale),
        255,
    ),
    "DiscretizedLogisticMixture": _mixture(),
    "the same in colour": _colour(),
    "Poisson": _pairs(
        _one(package.Poisson, **WIDE), RAW_RATES, COUNTS, lambda p, _: [p.rate], formulas.poisson, smallest=NORMAL
    ),
    "NegativeBinomial": _pairs(
        _one(package.NegativeBinomial, "decoder", **WIDE),
        _RAW_NB,
        COUNTS,
        lambda p, _: [p.total_count, p.logits],
        formulas.negative_binomial,
        smallest=NORMAL,
    ),
    "ZeroInflatedPoisson": _inflated(
        _one(package.ZeroInflatedPoisson, **WIDE),
        [(raw,) for raw in RAW_RATES],
        (0.0, 1.0, 899_000.0, 5e6),
        ["rate"],
        formulas.poisson,
    ),
    "ZeroInflatedNegativeBinomial": _inflated(
        _one(package.ZeroInflatedNegativeBinomial, "decoder", **WIDE),
        _RAW_NB,
        (0.0, 5e6),
        _NB,
        formulas.negative_binomial,
    ),
    "Heterogeneous": _table(),
}
