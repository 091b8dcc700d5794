"""Numbers as the page shows them."""

from __future__ import annotations

import math

__all__ = ["measured"]


def measured(value: float, error: float) -> str:
    """Return a value with its error, to as many digits as the error takes, two or more.

    >>> measured(-21.0123, 0.0058), measured(-169.19, 1.2), measured(-3.0, 0.0)
    ('-21.012 ± 0.006', '-169.19 ± 1.20', '-3.00 ± 0.00')
    """
    digits = max(2, -math.floor(math.log10(error))) if 0 < error < 1 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"
