"""Figures with errors: as many digits as the error leaves, and no error but zero printed as zero."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest

from pyro_vae.display import rounded, with_error

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (-90.1903, 0.0004, "-90.19030 ± 0.00040"),
        (2.0, 1.0, "2.0 ± 1.0"),
        (-12.3, 99.6, "-10 ± 100"),
        (-90.19027, 0.00043, "-90.19027 ± 0.00043"),
        (-98.7654, 1.234, "-98.8 ± 1.2"),
        (-98.7654, 0.0312, "-98.765 ± 0.031"),
        (-98.7654, 0.0996, "-98.77 ± 0.10"),  # rounded up to the next place
        (-98.7654, 9.96, "-99 ± 10"),
        (-98.7654, 12.0, "-99 ± 12"),
        (-1234.5, 123.4, "-1230 ± 120"),
        (12345.0, 5e4, "12000 ± 50000"),
        (-0.001, 0.25, "0.00 ± 0.25"),  # zero has no sign
        (0.0, 0.25, "0.00 ± 0.25"),
        (-98.7654, 0.0, "-98.765 ± 0"),
        (-98.7654, -0.0, "-98.765 ± 0"),
        (-98.7654, math.nan, "-98.765 ± nan"),
        (-98.7654, math.inf, "-98.765 ± inf"),
        (math.nan, 0.5, "nan ± 0.50"),
        (-math.inf, 0.5, "-inf ± 0.50"),
        (-98.7654, 3.2e-18, "-98.765400000000 ± 3.2e-18"),
        (1e22, 1e20, "10000000000000000000000 ± 100000000000000000000"),
    ],
)
def test_figures_to_the_place_of_their_errors(value, error, shown):
    assert with_error(value, error) == shown


def test_a_mark_stands_behind_the_error():
    assert with_error(-98.7654, 0.0312, "†") == "-98.765 ± 0.031†"


def test_what_is_printed_is_within_a_twentieth_of_the_error():
    draws = random.Random(0)
    for _ in range(2000):
        error = 10 ** draws.uniform(-9, 9)
        value = draws.gauss(0, 1) * 10 ** draws.uniform(-3, 6)
        figure, shown = rounded(value, error)
        assert abs(float(shown) - error) <= 0.0501 * error and float(shown) > 0
        last = len(shown.partition(".")[2])
        assert len(figure.partition(".")[2]) == last
        assert abs(float(figure) - value) <= 0.5001 * error or float(figure) == pytest.approx(value, rel=1e-12)


def test_no_other_place_of_the_package_chooses_the_digits_of_an_error():
    sources = [*ROOT.glob("pyro_vae/**/*.py"), *ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    own = re.compile(r"± *(?:\"\s*f\")?{[^}]*:[^}]*\.(?:\d?|{\w+})[fge]}")
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path in sources for match in own.finditer(path.read_text())]
    assert len(sources) > 200 and own.search('f"± {error:.3f}"') and own.search('gap ± "\n f"{error:.3f}"')
    assert own.search('f"± {error:.{digits}f}"')
    assert found == []
