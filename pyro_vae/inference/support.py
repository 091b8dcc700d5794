r"""The data that observed sites cover: values outside of a support have no density, only a number.

A distribution evaluates its formula anywhere. That of a Bernoulli, at the value -3, gives

.. math:: \log p(-3|\lambda) = -3 \lambda - \log(1 + e^\lambda),

which for a confident decoder is as large as one likes. So every value that a program observes is compared with the
support of its distribution, once, before or while the programs go through the data for the first time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MaskedDistribution, ZeroInflatedDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.inference.sites import Site, mask_of
from pyro_vae.inference.traces import PairTrace
from pyro_vae.likelihoods.heterogeneous import Columns
from pyro_vae.likelihoods.levels import Levels

__all__ = ["check_site", "check_values", "covers_all", "entry_support", "is_constant", "is_discrete", "is_masked"]

_WRAPPERS = (torch.distributions.Independent, MaskedDistribution, ZeroInflatedDistribution)  # of the same values
_CONSTANTS = [value for value in vars(constraints).values() if isinstance(value, constraints.Constraint)]


def fixed_support(fn: Any) -> constraints.Constraint | None:
    """Return the support of a distribution on its single entries where they have one, on its events elsewhere.

    ``None`` where it depends on parameters: a value outside of it may be inside for other latents.
    """
    support = entry_support(fn)
    return None if _has_parameters(support) else support


def entry_support(fn: Any) -> constraints.Constraint | None:
    """Return the support of an entry of a distribution's event, ``None`` where it does not tell."""
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):  # of a distribution that does not tell
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _has_parameters(support: Any) -> bool:
    if support is None:
        return False
    parts = [part for value in vars(support).values() for part in (value if isinstance(value, list) else [value])]
    return any(
        (isinstance(part, Tensor) and part.dim() > 0)
        or (isinstance(part, constraints.Constraint) and _has_parameters(part))
        for part in parts
    )


def is_constant(fn: Any) -> bool:
    """Tell whether a distribution has the same support for all data; a program may set bounds batch by batch."""
    return _is_constant(fixed_support(fn))


def _is_constant(support: Any) -> bool:
    if isinstance(support, constraints.cat):
        return all(map(_is_constant, support.cseq))
    return isinstance(support, Levels) or any(support is constant for constant in _CONSTANTS)


def is_masked(site: Site) -> bool:
    """Tell whether some of what a site observes may not count."""
    fn = site["fn"]
    while hasattr(fn, "base_dist") and not isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    return site["mask"] is not None or isinstance(fn, MaskedDistribution)


def is_discrete(fn: Any) -> bool:
    """Tell whether a distribution gives probabilities: whether each of its entries is discrete, as far as it tells."""
    try:
        return _is_discrete(fn.support)
    except (NotImplementedError, AttributeError):
        return False


def _is_discrete(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return all(map(_is_discrete, support.cseq)) if isinstance(support, constraints.cat) else bool(support.is_discrete)


def covers_all(fn: Any) -> bool:
    """Tell whether a distribution covers all finite numbers, as far as can be told without its latents."""
    support = fixed_support(fn)
    return (support is None or support is constraints.real) and _largest_mean(fn) is None


def check_site(pair: PairTrace, site: Site, start: int, name: str) -> None:
    """Raise ``ValueError`` for the first value that a site observed and does not cover.

    Parameters
    ----------
    pair, site
        A run of the programs on a batch, and one of the model's observed sites.
    start
        The place of the first datum of the batch in all data.
    name
        What messages call the data.
    """
    fn, seen = site["fn"], mask_of(site)
    axis = site["value"].dim() - fn.event_dim + pair.data_dim  # of the data
    what = f"site {site['name']!r}"
    check_values(fn, site["value"], torch.as_tensor(seen, device=site["value"].device), start, axis, name, what)


def check_values(fn: Any, values: Tensor, seen: Tensor, start: int, axis: int, name: str, site: str) -> None:
    """Raise ``ValueError`` for the first of some values that a distribution does not cover.

    Parameters
    ----------
    fn
        The distribution.
    values, seen
        The values, and where they are observed.
    start, axis
        The place of the first datum in all data, and the dimension that counts data.
    name, site
        What messages call the data, and the site.
    """
    if hasattr(fn, "check_observed") and seen.dim():
        fn.check_observed(seen)
    support = fixed_support(fn)
    if support is None or (support is constraints.boolean and _are_binary(values)):
        return
    inside = support.check(values)  # without the dimensions of an event
    of_events: Any = (..., *[0] * (values.dim() - inside.dim()))
    outside = ~inside & (seen[of_events] if seen.dim() else seen)
    if outside.any():
        where, found = _first(outside, values, start, axis)
        base = _entry(fn, where)
        support = support if base is fn else fixed_support(base) or support
        raise ValueError(
            f"{name}: found the value {found} at {where}, outside the support of {site}, expected what a "
            f"{type(base).__name__} covers, {support}{_hint(support, found)}"
        )
    largest = _largest_mean(fn)
    if largest is not None and (above := (values > largest.to(values)) & seen).any():
        where, found = _first(above, values, start, axis)
        raise ValueError(
            f"{name}: found the count {found} at {where}, above every mean of {site}, expected at most "
            f"high={_entry(fn, where).largest_mean:g} of its likelihood; give that a larger high"
        )


def _are_binary(values: Tensor) -> bool:
    """Tell whether all are 0.0 or 1.0, for :math:`x^2 = x`; in a fifth of the time that comparisons take.

    >>> [_are_binary(torch.tensor([0.0, 1.0, other])) for other in (1.0, 0.5, math.inf, math.nan)]
    [True, False, False, False]
    """
    return values.is_floating_point() and (values * values - values).abs_().sum().item() == 0


def _first(bad: Tensor, values: Tensor, start: int, axis: int) -> tuple[tuple[int, ...], str]:
    """Return where in the data the first bad value of a batch is that begins at ``start``, and what is there."""
    where = bad.nonzero()[0].tolist()
    found = values[tuple(where)]
    if axis < len(where):
        where[axis] += start
    return tuple(where), f"{found.item():g}" if found.numel() == 1 else str(found.tolist())


def _entry(fn: Any, where: tuple[int, ...]) -> Any:
    """Return the distribution of the single entry at an index."""
    while isinstance(fn, (Columns, *_WRAPPERS)):
        fn = fn.group_of(where[-1]) if isinstance(fn, Columns) else fn.base_dist
    return fn


def _largest_mean(fn: Any) -> Tensor | None:
    """Return the largest means of the entries of counts, to be compared with their values; ``None`` of others."""
    if isinstance(fn, Columns):
        means = [_largest_mean(group) for group in fn.groups]
        if all(mean is None for mean in means):
            return None
        filled = [torch.tensor(math.inf) if mean is None else mean for mean in means]
        return torch.cat([mean.expand(length) for mean, length in zip(filled, fn.lengths, strict=True)])
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    largest = getattr(fn, "largest_mean", None)
    return None if largest is None else torch.tensor(float(largest))


def _hint(support: Any, found: str) -> str:
    """Say what may help with data outside of a support, to end a message with."""
    if support is constraints.boolean:
        return "; binarise it (see pyro_vae.data.load), or use another likelihood"
    if isinstance(support, Levels) and 1 < float(found) <= support.top:
        return f"; divide whole levels by {support.top}"
    if isinstance(support, Levels) and 0 <= float(found) <= 1 and _is_nearly_level(float(found), support.top):
        return (
            f"; levels that half precision rounded are restored by (x.float() * {support.top}).round() / {support.top}"
        )
    return ""


def _is_nearly_level(value: float, top: int) -> bool:
    """Tell whether a number is a level but for the rounding of float16."""
    nearest = round(value * top) / top
    return abs(value - nearest) <= 2**-11 * max(nearest, 2**-14)
