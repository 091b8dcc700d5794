"""A figure and its error, to the digits that the error leaves.

An estimate is known to the size of its error, so the digits behind that say nothing. The error itself is worth two
significant digits, a zero among them: -90.19027 with an error of 0.000401 is ``-90.19027 ± 0.00040``, and with one of
0.0112 it is ``-90.190 ± 0.011``. No error but zero is printed as zero.
"""

from __future__ import annotations

import math

__all__ = ["rounded", "rounded_error", "with_error"]

_WITHOUT = 3  # decimals of a figure whose error is zero or not known
_MOST = 12  # decimals of any figure: float64 holds no more of numbers in the thousands


def rounded(value: float, error: float) -> tuple[str, str]:
    """Return a figure and its standard error as text, the figure to the last decimal place of the error.

    An error of zero is ``"0"``. One that is not known or not finite is ``"nan"`` or ``"inf"``.

    >>> rounded(-90.19027, 0.0112), rounded(1234.5, 210.0), rounded(0.5, 0.0)
    (('-90.190', '0.011'), ('1230', '210'), ('0.500', '0'))
    """
    if error == 0 or not math.isfinite(error):
        return _to_place(value, _WITHOUT), "0" if error == 0 else str(abs(error))
    place = 1 - int(f"{abs(error):.1e}".partition("e")[2])  # rounded before its digits are counted: 0.0996 is 0.10
    if place > _MOST:
        return _to_place(value, _MOST), f"{abs(error):.1e}"
    return _to_place(value, place), _to_place(abs(error), place)


def rounded_error(error: float) -> str:
    """Return a standard error to two significant digits, as :func:`rounded` does.

    >>> rounded_error(0.0996), rounded_error(0.000123)
    ('0.10', '0.00012')
    """
    return rounded(0.0, error)[1]


def with_error(value: float, error: float, mark: str = "") -> str:
    """Return ``"figure ± error"``, and behind it a mark such as that of :attr:`pyro_vae.LogLikelihood.mark`.

    >>> with_error(-90.1903, 0.0004), with_error(-98.7654, 0.0312, "†")
    ('-90.19030 ± 0.00040', '-98.765 ± 0.031†')
    """
    figure, shown = rounded(value, error)
    return f"{figure} ± {shown}{mark}"


def _to_place(value: float, place: int) -> str:
    """Return a number rounded to a decimal place, which is negative for tens and hundreds."""
    if not math.isfinite(value):
        return str(value)
    return f"{round(value, place) + 0.0:.{max(place, 0)}f}"  # + 0.0 makes -0.0 zero
