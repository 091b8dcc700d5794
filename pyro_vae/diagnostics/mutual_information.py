r"""The mutual information of latents and data, and the aggregate posterior, over all sites jointly.

Let n be uniform on 1..N and z drawn from :math:`q(z|x_n)`; its marginal is the *aggregate posterior*
:math:`q(z) = \frac1N \sum_m q(z|x_m)`. The KL term of the ELBO, averaged over the data, splits into

.. math::

    \frac1N \sum_n \mathrm{KL}\bigl(q(z|x_n) \,\|\, p(z)\bigr) = I(n; z) + \mathrm{KL}\bigl(q(z) \,\|\, p(z)\bigr),

the mutual information of index and latents, and the KL of the aggregate posterior to the prior (Hoffman and Johnson
2016, *ELBO surgery*). The first is information that the latents carry. The second is a mismatch that shows in samples.
With one draw :math:`z_n` a datum, both are means of log-ratios,

.. math::

    \hat I = \frac1N \sum_n \log \frac{q(z_n|x_n)}{\frac1N \sum_m q(z_n|x_m)}, \qquad
    \widehat{\mathrm{KL}} = \frac1N \sum_n \log \frac{\frac1N \sum_m q(z_n|x_m)}{p(z_n)},

which sum to the sampled KL of the same draws. All N² densities are evaluated, in blocks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.conversion import as_batches
from pyro_vae.errors import ProgramError, failing_on
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["Information", "information"]

_BLOCK_NUMBERS = 2**21  # in the latents of one block: 8 MB in float32, of which a guide makes some ten copies
_MOST_OFF = 0.1  # nats, by which a density may change when its draw is given back as a value
_BLOCK_ROWS = 2**14  # in one block: the second layer of a guide sends each through its network


@dataclass(frozen=True)
class Information:
    """The two parts of a pair's mean KL over ``num_data`` data, in nats per datum.

    Attributes
    ----------
    mutual_information, mutual_information_error
        Index-code mutual information and its standard error; at most :attr:`bound`.
    aggregate_kl, aggregate_kl_error
        KL of the aggregate posterior to the prior and its standard error.
    kl
        Mean of log q(z|x) - log p(z) over the same draws: the sum of the two.
    num_data
        N.
    """

    mutual_information: float
    mutual_information_error: float
    aggregate_kl: float
    aggregate_kl_error: float
    kl: float
    num_data: int

    @property
    def bound(self) -> float:
        """The largest possible mutual information: log N, the entropy of n."""
        return math.log(self.num_data)


@checked
@torch.no_grad()
def information(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: AnyData,
    *,
    num_data: PositiveInteger = 2000,
    batch_size: PositiveInteger = 500,
    seed: Seed | None = 0,
    max_plate_nesting: PositiveInteger = 1,
) -> Information:
    r"""Estimate the index-code mutual information of a guide and the KL of its aggregate posterior to the prior.

    The estimate is unbiased for the first N data. For I(x; z) of the population it saturates: within a nat or so of
    log N, more data would raise it. The standard errors are those of a mean of N independent terms, one a datum, and
    include the spread of the data.

    Parameters
    ----------
    model, guide
        A pair of programs, run in eval mode. Scales are ignored, masks apply. Auxiliary sites of the guide count as
        latents.
    x
        Data ``(N, *data_shape)``: a tensor, an array, a split, a dataset or a loader.
    num_data
        The number of data to use, from the first on, or all if there are fewer. Time grows with its square.
    batch_size
        The number of data in one run of the programs. It changes memory and speed.
    seed
        The seed of the draws; the caller's generators stay as they are. With ``None`` the draws come from those.
    max_plate_nesting
        The number of plates in the programs, the data plate included.

    Returns
    -------
    Information
        All NaN where the guide's density cannot be evaluated at a draw of another datum (a flow without an inverse).
        Where rounding alone changes the density of a draw by more than 0.1 nats, a warning says so.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If a count is not a positive integer or there are no data.

    References
    ----------
    Hoffman and Johnson, *ELBO surgery: yet another way to carve up the variational evidence lower bound*, 2016.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> split = information(vae.model, vae.guide, torch.zeros(10, 4))  # equal data are one index to the guide
    >>> abs(split.mutual_information) < 1e-5, round(split.bound, 4)
    (True, 2.3026)
    """
    programs = ProgramPair(model, guide, max_plate_nesting).isolated()
    device, dtype = programs.placement(x)
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x")
    data: list[Tensor] = []  # kept, since dynamic binarisation draws new data at each pass
    parts: list[tuple[dict[str, Tensor], Tensor]] = []
    drawn: list[Tensor] = []  # log q of each draw where it was drawn
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(model, guide):
        for batch in _first(batches, num_data):
            with failing_on("x", batch):
                pair = trace_pair(programs, batch)
            programs = replace(programs, max_plate_nesting=pair.max_plate_nesting)  # where there are more than was said
            codes = {
                name: _by_datum(site, pair.data_dim, pair.max_plate_nesting)
                for name, site in pair.guide_sites.items()
                if not site["is_observed"]
            }
            log_p = torch.zeros(len(batch), dtype=torch.float64, device=device)
            for name in pair.latents:
                log_p += pair.log_prob(pair.model_sites[name])[0]
            data.append(batch)
            drawn.append(pair.log_q()[0].double())
            parts.append((codes, log_p))
            data_dim = pair.data_dim
        if not parts:
            raise ValueError("x: found no data, expected one datum or more")
        z = {name: torch.cat([codes[name] for codes, _ in parts]) for name in parts[0][0]}  # (N, *plates, *event) each
        log_p_z = torch.cat([log_p for _, log_p in parts])  # (N,)
        try:
            log_q_z_x, log_q_z = _densities(programs, data, z, data_dim)  # (N,), (N,)
        except ProgramError:  # the guide has no density at a given value
            log_q_z_x = log_q_z = torch.full_like(log_p_z, math.nan)
    _check_resolved(log_q_z_x, torch.cat(drawn))
    known, mismatch = log_q_z_x - log_q_z, log_q_z - log_p_z
    return Information(
        mutual_information=known.mean().item(),
        mutual_information_error=_standard_error(known),
        aggregate_kl=mismatch.mean().item(),
        aggregate_kl_error=_standard_error(mismatch),
        kl=(log_q_z_x - log_p_z).mean().item(),
        num_data=len(known),
    )


def _check_resolved(given: Tensor, drawn: Tensor) -> None:
    """Warn if a guide has other densities at its draws ``(N,)``, given as values, than when it drew them."""
    off = (given - drawn).abs().nan_to_num(0.0).max().item()
    if off > _MOST_OFF:
        warnings.warn(
            f"guide: found densities of its draws that are off by up to {off:.2g} nats, as the draws are rounded; the "
            "mutual information and the KL of the aggregate posterior mean nothing, expected programs in float64, or "
            "a guide with a better conditioned covariance",
            UserWarning,
            stacklevel=2,
        )


def _densities(programs: ProgramPair, data: list[Tensor], z: dict[str, Tensor], data_dim: int) -> tuple[Tensor, Tensor]:
    """Return log q(z_n|x_n) ``(N,)`` and log q(z_n) ``(N,)`` of N draws in float64."""
    N = sum(map(len, data))
    numbers = sum(value[0].numel() for value in z.values())
    own, mixture = data[0].new_zeros(N, dtype=torch.float64), data[0].new_full((N,), -math.inf, dtype=torch.float64)
    indices = torch.arange(N, device=data[0].device)
    start = 0
    for x in data:
        num_particles = max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // numbers) // len(x))
        for rows in indices.split(num_particles):  # draws are particles here, and all data see each of them
            log_q = _log_q(programs, x, {name: value[rows] for name, value in z.items()}, data_dim)
            mixture[rows] = mixture[rows].logaddexp(log_q.logsumexp(1))
            is_own = rows[:, None] == indices[start : start + len(x)]  # (S, B)
            own[rows] += log_q.where(is_own, 0).sum(1)
        start += len(x)
    return own, mixture - math.log(N)


def _log_q(programs: ProgramPair, x: Tensor, z: dict[str, Tensor], data_dim: int) -> Tensor:
    """Return log q(z_s|x_b) ``(S, B)`` of S given draws under B data in float64, from one run of the guide."""
    S = len(next(iter(z.values())))
    nesting = programs.max_plate_nesting
    data_axis = 1 + nesting + data_dim
    latents = poutine.Trace()
    for name, value in z.items():
        value = value.unsqueeze(data_axis)  # (S, *plates, *event), with the data's plate of size 1 among them
        value = value.expand(*value.shape[:data_axis], len(x), *value.shape[data_axis + 1 :])
        latents.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    with pyro.plate("num_particles_vectorized", S, dim=-1 - nesting):
        trace = poutine.trace(poutine.replay(programs.guide, trace=latents)).get_trace(x)
    pair = PairTrace(trace, trace, trace, S, len(x), nesting)  # of the guide alone
    return pair.log_q().double()


def _standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of independent values ``(N,)``, NaN for one value."""
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else math.nan


def _by_datum(site: dict[str, Any], data_dim: int, max_plate_nesting: int) -> Tensor:
    """Return the value of a site, run without particles, as ``(B, *plates, *event)`` with the other plates."""
    value, event_dim = site["value"], site["fn"].event_dim
    num_missing = max_plate_nesting - (value.dim() - event_dim)
    return value.reshape((1,) * num_missing + value.shape).movedim(max_plate_nesting + data_dim, 0)


def _first(batches: Any, num_data: int) -> Iterator[Tensor]:
    """Yield the batches up to ``num_data`` data, the last one cut."""
    for batch in batches:
        yield batch[:num_data]
        num_data -= len(batch)
        if num_data <= 0:
            return
