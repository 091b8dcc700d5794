r"""What a model says of the expression of genes in a cell, with the library size and the batch taken out.

The shares ρ of the genes do not depend on the library size. Their posterior mean, times a library size L that is the
same for all cells, is the *normalised expression*,

.. math:: L\; \mathbb{E}\bigl[\rho_g(z, s) \,\big|\, x, l, s\bigr] \approx L \sum_k \tilde w_k\, \rho_g(z_k, s), \qquad
          \tilde w_k \propto \frac{p(x, z_k | l, s)}{q(z_k | x, l, s)},\quad z_k \sim q .

With other covariates s′ in ρ it is what the cell would have shown in another batch. The weights take out what the guide
gets wrong; with K = 1 they are 1, and the average is over the guide.

Lopez et al., *Deep generative modeling for single-cell transcriptomics*, 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyro_vae.cells.likelihood import CellCounts
from pyro_vae.cells.program import CellVAE
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["expression_of", "mean_expression", "posterior_draws", "resampled"]

_DRAWS = 4_000_000  # entries of particles times cells times genes at once


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


def resampled(z: Tensor, log_w: Tensor) -> Tensor:
    """Draw one of K weighted latents for each cell, ``(B, latent_dim)``."""
    chosen = torch.multinomial(log_w.double().exp().T, 1)[:, 0]  # (B,)
    return z[chosen, torch.arange(z.shape[1], device=z.device)]


def in_pieces(vae: CellVAE, num_cells: int, num_particles: int) -> Iterator[slice]:
    """Yield rows of as many cells as are run at once."""
    size = max(1, _DRAWS // (num_particles * vae.layout.num_genes))
    yield from (slice(start, min(start + size, num_cells)) for start in range(0, num_cells, size))


@torch.no_grad()
def mean_expression(
    vae: CellVAE,
    rows: Callable[[slice], Tensor],
    num_cells: int,
    code: int | None,
    places: list[int],
    num_particles: int,
    seed: int | None,
) -> Tensor:
    """Return the posterior means of ρ ``(num_cells, len(places))``.

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
    """
    likelihood, (device, dtype) = expression_of(vae), placement(vae)
    parts = []
    with exclusive("normalized_expression", brief=True), seeded(seed, device), evaluating(vae.model, vae.guide):
        for piece in in_pieces(vae, num_cells, num_particles):
            x = rows(piece).to(device, dtype)
            z, log_w = posterior_draws(vae, x, num_particles)
            _, covariates = vae.layout.unpack(x)
            seen = covariates if code is None else vae.layout.in_batch(covariates, code)
            rho = likelihood.log_expression(z, seen)[..., places].exp()  # (K, B, len(places))
            parts.append((log_w.exp()[..., None] * rho).sum(0).cpu())
    return torch.cat(parts)
