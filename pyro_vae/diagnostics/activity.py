r"""Active units: the units of a latent whose posterior mean moves with the data.

.. math:: A_i = \mathrm{Var}_x\bigl(\mathbb{E}_q[z_i|x]\bigr)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.batches import Batches
from pyro_vae.data.conversion import as_batches
from pyro_vae.diagnostics.moments import Moments
from pyro_vae.errors import failing_on
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair, is_packaged
from pyro_vae.inference.particles import check_way
from pyro_vae.inference.sites import Site, random_sites
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.arguments import AnyData, NonNegativeNumber, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["Table", "active_units", "num_draws_of", "portions", "posterior_means", "update_means"]


@checked
@exclusive("posterior_means")
@torch.no_grad()
def posterior_means(
    guide: StochasticFunction, x: AnyData, *, batch_size: PositiveInteger = 500, seed: Seed = 0
) -> dict[str, Tensor]:
    r"""Return :math:`\mathbb{E}_q[z|x]` of each latent site for data ``(N, *data_shape)``: ``(N, *event_shape)`` each.

    In a hierarchy a layer's mean is given one draw of the layers sampled before it. Sites whose distribution has no
    ``mean`` (flows) are left out.
    """
    device, dtype = placement(guide, data=x)
    means: dict[str, list[Tensor]] = {}
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(guide):
        for batch in as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x", each_datum=True):
            pair = _run(guide, batch)
            for name in _latents(pair):
                mean = _mean(pair.guide_sites[name])
                if mean is not None:
                    means.setdefault(name, []).append(mean)
    return {name: torch.cat(parts) for name, parts in means.items()}


@checked
@exclusive("active_units")
@torch.no_grad()
def active_units(guide: StochasticFunction, x: AnyData, *, threshold: NonNegativeNumber = 1e-2) -> dict[str, int]:
    r"""Count the units of each latent site that the guide uses.

    .. math:: A_i = \mathrm{Var}_x\bigl(\mathbb{E}_q[z_i|x]\bigr) > 0.01

    In a hierarchy the mean of a layer is given the layers drawn before it: :math:`m_{ns}` in the s-th of S draws for
    datum n. It varies with those draws as well as with the data. The unbiased estimate subtracts their part,

    .. math:: \hat A = \mathrm{Var}_n(\bar m_n) - \frac1N \sum_n \frac{\mathrm{Var}_s(m_{ns})}{S}, \qquad
              \bar m_n = \frac1S \sum_s m_{ns},

    with S = 10, or 1000 / √N up to 100 for few data. Take a hundred data or more and a unit whose mean has unit
    variance over the draws and none over the data: its estimate stays seven standard errors of √2 / (S √N) below the
    threshold. A guide with a single latent needs one draw.

    Parameters
    ----------
    guide
        The guide. A hierarchy runs with S draws in a plate to the left of its own: its latents have the shape
        ``(S, B, ...)``. Draws stand in for the mean of a distribution without one (a flow). Latents without a finite
        mean are left out, such as ``Categorical``, whose classes have no order. ``Bernoulli`` and one-hot latents have
        means.
    x
        Data ``(N, *data_shape)``, N of 2 or more: a tensor, an array, a split, a dataset or a loader.
    threshold
        The variance above which a unit counts as active.

    Raises
    ------
    ProgramError
        If a guide that needs several draws gives other densities in a plate of them than in single runs.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015, section 5.2.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> active_units(vae.guide, torch.zeros(10, 4))  # equal data cannot move any unit
    {'z': 0}
    """
    device, dtype = placement(guide, data=x)
    batches = as_batches(x, 500, device=device, dtype=dtype, shuffle=False, name="x")
    means = Table()
    with pyro.validation_enabled(False), seeded(0, device), evaluating(guide):
        num_draws = num_draws_of(guide, batches)
        for index, batch in enumerate(portions(batches, 500, num_draws)):
            if index == 0 and num_draws > 1:
                _check_draws(guide, batch)
            update_means(means, _run(guide, batch, num_draws))
    return {name: int((moments.variance > threshold).sum()) for name, moments in means.items()}


class Table(dict[str, Moments]):
    """Moments of each site, created on first access."""

    def __missing__(self, name: str) -> Moments:
        self[name] = Moments()
        return self[name]


def num_draws_of(guide: StochasticFunction, batches: Batches) -> int:
    """Return S, the number of draws for each datum, see :func:`active_units`."""
    x = next(iter(batches)) if batches.resident else batches.first()
    if x is None:
        raise ValueError("x: found no data, expected one datum or more")
    pair = _run(guide, x[:2])
    sites = [pair.guide_sites[name] for name in _latents(pair)]
    if len(sites) == 1 and _mean(sites[0]) is not None:
        return 1
    return max(10, min(100, math.ceil(1000 / (batches.num_data or 2500) ** 0.5)))


def _check_draws(guide: StochasticFunction, x: Tensor) -> None:
    """Raise ``ProgramError`` for a guide that is another one in a plate of draws than in single runs."""
    frames = [f for site in _run(guide, x).guide_sites.values() for f in site["cond_indep_stack"] if f.vectorized]
    max_plate_nesting = max([1, *(-frame.dim for frame in frames)])
    pair = ProgramPair(poutine.mask(guide, mask=False), guide, max_plate_nesting)  # whose weights are 1/q(z|x)
    if not is_packaged(pair):
        with seeded(0, x.device):
            check_way(pair.isolated(), x, True)


def portions(batches: Iterable[Tensor], batch_size: int, num_draws: int) -> Iterator[Tensor]:
    """Yield the data in parts whose draws together make about one batch."""
    for batch in batches:
        yield from batch.split(max(1, batch_size // num_draws))


def _run(guide: StochasticFunction, x: Tensor, num_draws: int = 1) -> PairTrace:
    """Run a guide alone, as if it were a pair; S > 1 draws take a plate to the left of its own."""
    with failing_on("x", x):
        trace = poutine.trace(isolated(guide)).get_trace(x)
    frames = [f for site in random_sites(trace).values() for f in site["cond_indep_stack"] if f.vectorized]
    max_plate_nesting = max([1, *(-frame.dim for frame in frames)])
    if num_draws > 1:
        with pyro.plate("num_particles_vectorized", num_draws, dim=-1 - max_plate_nesting):
            trace = poutine.trace(isolated(guide)).get_trace(x)
    return PairTrace(trace, trace, trace, num_draws, len(x), max_plate_nesting)


def _latents(pair: PairTrace) -> list[str]:
    """Return the names of the guide's latents, auxiliary ones included."""
    return [name for name, site in pair.guide_sites.items() if not site["is_observed"]]


def _mean(site: Site) -> Tensor | None:
    """Return the mean of a site's distribution, or ``None`` if it has none."""
    try:
        return site["fn"].mean
    except (NotImplementedError, AttributeError):  # the second: not a torch distribution
        return None


def update_means(means: Table, pair: PairTrace) -> None:
    """Add each latent's mean given the latents before it; latents without a finite mean are left out."""
    for name in _latents(pair):
        site = pair.guide_sites[name]
        mean = _mean(site)
        mean = site["value"] if mean is None else mean  # E[z|x] is the mean of both over the draws
        if name in means or mean.isfinite().any():
            means[name].update(pair.per_unit(mean, site | {"mask": None}, site["fn"].event_dim))
