r"""What a model says of the expression of genes in a cell, with the library size and the batch taken out.

The shares ρ of the genes do not depend on the library size. Their posterior mean, times a library size L that is the
same for all cells, is the *normalised expression*,

.. math:: L\; \mathbb{E}\bigl[\rho_g(z, s) \,\big|\, x, l, s\bigr] \approx L \sum_k \tilde w_k\, \rho_g(z_k, s), \qquad
          \tilde w_k \propto \frac{p(x, z_k | l, s)}{q(z_k | x, l, s)},\quad z_k \sim q .

With other covariates s′ in ρ it is what the cell would have shown in another batch. The weights take out what the guide
gets wrong; with K = 1 they are 1, and the average is over the guide. They leave a part of it, about one in

.. math:: \mathrm{ESS} = \frac1{\sum_k \tilde w_k^2} .

So a mark † stands where the effective sample size of more than a tenth of the cells is below 4, and for K under 20
below that of :func:`pyro_vae.evaluation.streaming.least_ess`. Under Gaussian guides of one to ten latents that were
misplaced and too wide, with K of 10 to 1,000, the bias without a mark was below a tenth of the posterior's standard
deviation. The Monte Carlo error of the mean is

.. math:: \mathrm{se}^2 = L^2 \sum_k \tilde w_k^2 \Bigl(\rho_g(z_k, s) - \sum_j \tilde w_j\, \rho_g(z_j, s)\Bigr)^2 .

It is too small where the mark stands, and NaN for K = 1. Of what the guide never draws the weights know nothing: one
that is too narrow can be wrong without a mark.

Lopez et al., *Deep generative modeling for single-cell transcriptomics*, 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.cells.likelihood import CellCounts
from pyro_vae.cells.program import CellVAE
from pyro_vae.evaluation.streaming import FEW, least_ess
from pyro_vae.evaluation.weighted_mean import WeightedMean
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating, seeded

__all__ = [
    "MeanExpression",
    "caveat",
    "effective_size",
    "expression_of",
    "mean_expression",
    "posterior_draws",
    "resampled",
]

_DRAWS = 4_000_000  # entries of particles times cells times genes at once
_MOST = 20  # particles of which a part has to be effective; of more, as large a number


def expression_of(vae: CellVAE) -> CellCounts:
    """Return the likelihood of a program, which has the shares of genes.

    Raises
    ------
    TypeError
        For a likelihood of one's own.
    """
    if not isinstance(vae.likelihood, CellCounts):
        raise TypeError(
            f"vae: found the likelihood {type(vae.likelihood).__name__}, expected CellCounts, which has shares of genes"
        )
    return vae.likelihood


def posterior_draws(vae: CellVAE, x: Tensor, num_particles: int) -> tuple[Tensor, Tensor]:
    """Draw latents ``(K, B, latent_dim)`` of cells; return them and the logs of their weights, which add up to 1."""
    pair = trace_pair(ProgramPair(vae.model, vae.guide).isolated(), x, num_particles)
    z = pair.guide_sites["z"]["value"].reshape(num_particles, len(x), -1)
    log_w = torch.stack(list(pair.terms().values())).sum(0)  # (K, B)
    return z, log_w.log_softmax(0)


def effective_size(log_w: Tensor) -> Tensor:
    """Return the effective sample sizes ``(B,)`` of the logs of weights ``(K, B)`` that add up to 1."""
    return (-(2 * log_w).logsumexp(0)).exp()


def caveat(ess: Tensor, num_particles: int) -> str:
    """Return a sentence about draws that the weights leave near the guide, and ``""`` about others.

    ``ess`` are the effective sample sizes of K weights, ``(N,)``.

    >>> caveat(torch.tensor([1.5, 6.0]), num_particles=10).partition(":")[0]
    '† the effective sample size is below 2 of K = 10 for 50 % of the cells, and 3.8 on average'
    >>> caveat(torch.tensor([5.0, 6.0]), num_particles=10)
    ''
    """
    if num_particles == 1:
        return "† K = 1: the latents are from the guide, and what it gets wrong is in all figures and in no error"
    least = least_ess(min(num_particles, _MOST))
    share = (ess < least).double().mean().item()
    if share <= FEW:
        return ""
    return (
        f"† the effective sample size is below {least:g} of K = {num_particles} for {100 * share:.0f} % of the cells, "
        f"and {ess.double().mean():.1f} on average: some of what the guide gets wrong is in all figures, and in no "
        f"error; try num_particles={10 * num_particles}, or train further"
    )


def resampled(z: Tensor, log_w: Tensor) -> Tensor:
    """Draw one of K weighted latents for each cell, ``(B, latent_dim)``."""
    chosen = torch.multinomial(log_w.double().exp().T, 1)[:, 0]  # (B,)
    return z[chosen, torch.arange(z.shape[1], device=z.device)]


def in_pieces(vae: CellVAE, num_cells: int, num_particles: int) -> Iterator[slice]:
    """Yield rows of as many cells as are run at once."""
    size = max(1, _DRAWS // (num_particles * vae.layout.num_genes))
    yield from (slice(start, min(start + size, num_cells)) for start in range(0, num_cells, size))


class MeanExpression(NamedTuple):
    """Posterior means of ρ ``(N, len(places))``, their Monte Carlo errors, or ``None``, and ESS ``(N,)``."""

    mean: Tensor
    std_error: Tensor | None
    ess: Tensor


@torch.no_grad()
def mean_expression(
    vae: CellVAE,
    rows: Callable[[slice], Tensor],
    num_cells: int,
    code: int | None,
    places: list[int],
    num_particles: int,
    seed: int | None,
    return_error: bool = False,
) -> MeanExpression:
    """Return the posterior means of ρ.

    Parameters
    ----------
    vae
        The program.
    rows
        Returns packed cells ``(B, width)``.
    num_cells
        How many there are.
    code
        The batch in which they are to be seen, ``None`` for their own.
    places
        The places of the genes.
    num_particles, seed
        K, and the seed of the draws.
    return_error
        Whether to return their Monte Carlo standard errors, by the delta method.
    """
    likelihood, (device, dtype) = expression_of(vae), placement(vae)
    means, errors, sizes = [], [], []
    with exclusive("normalized_expression", brief=True), seeded(seed, device), evaluating(vae.model, vae.guide):
        for piece in in_pieces(vae, num_cells, num_particles):
            x = rows(piece).to(device, dtype)
            z, log_w = posterior_draws(vae, x, num_particles)
            _, covariates = vae.layout.unpack(x)
            seen = covariates if code is None else vae.layout.in_batch(covariates, code)
            rho = likelihood.log_expression(z, seen)[..., places].exp()  # (K, B, len(places))
            sums = WeightedMean()
            sums.update(log_w.double(), rho.double())
            means.append(sums.mean().to(rho).cpu())
            errors.append(sums.std_error().to(rho).cpu() if return_error else rho.new_empty(0).cpu())
            sizes.append(effective_size(log_w).cpu())
    return MeanExpression(torch.cat(means), torch.cat(errors) if return_error else None, torch.cat(sizes))
