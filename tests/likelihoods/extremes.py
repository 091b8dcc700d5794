"""Every likelihood in float32 beside mpmath's 50 digits, at outputs and data as large and as small as they come.

A network's outputs become the float32 parameters of a distribution. These are taken to be exact, and so are the data;
the error is that of the log-probability alone. ``python -m tests.likelihoods.extremes`` prints a line a likelihood.
"""

from __future__ import annotations

from typing import NamedTuple

import mpmath
import torch
from mpmath import mpf

from tests.likelihoods.extreme_cases import CASES


class Errors(NamedTuple):
    """The exact log-probability of each datum, ``(N,)``, and the errors beside it."""

    exact: list[float]
    absolute: list[float]
    relative: list[float]  # to the exact one, or to the case's ``smallest`` where that is larger

    def __str__(self) -> str:
        small = [i for i, exact in enumerate(self.exact) if abs(exact) < 100]
        one = max(range(len(self.exact)), key=self.relative.__getitem__)
        other = max(small, key=self.absolute.__getitem__)
        return (
            f"{self.relative[one]:7.1e} relative, at {self.exact[one]:10.3e}; "
            f"{self.absolute[other]:7.1e} nats, at {self.exact[other]:10.3e}"
        )


def errors(name: str) -> Errors:
    """The errors of a likelihood, in float32."""
    case = CASES[name]
    p = case.likelihood.from_output(case.outputs)
    found = p.log_prob(case.values)
    assert found.dtype == torch.float32
    base = getattr(p, "base_dist", p)
    with mpmath.workdps(50):
        exact = [case.exact(base, i) for i in range(len(found))]
        absolute = [abs(mpf(f) - e) for f, e in zip(found.tolist(), exact, strict=True)]
        relative = [a / max(abs(e), case.smallest) if a else mpf(0) for a, e in zip(absolute, exact, strict=True)]
    return Errors(*([float(number) for number in numbers] for numbers in (exact, absolute, relative)))


if __name__ == "__main__":
    for name in CASES:
        print(f"{name:30} {errors(name)}")
