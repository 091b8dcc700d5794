r"""Genes that two groups of cells express differently, by draws from the posterior, with their error.

A draw of the log fold change of gene g compares a cell a of one group with a cell b of the other. Both are chosen at
random, have latents from their posterior, and are seen under the same covariates s, those of a random cell of either
group. So a difference of batches, or of library sizes, is none of expression:

.. math:: \beta_g = \log_2 \frac{\rho_g(z_a, s) + \epsilon}{\rho_g(z_b, s) + \epsilon}, \qquad
          z_a \sim p(z | x_a),\; z_b \sim p(z | x_b) .

A gene has changed if :math:`|\beta_g| > \delta`. M independent draws give the probability of that, its Bayes factor
against the opposite in nats, and the mean log fold change,

.. math:: \hat p_g = \frac1M \sum_m \mathbb{1}[|\beta_{gm}| > \delta], \qquad
          \log \frac{\tilde p_g}{1 - \tilde p_g}, \qquad \hat\beta_g = \frac1M \sum_m \beta_{gm},

with the Monte Carlo errors

.. math:: \mathrm{se}(\hat\beta_g) = \frac{\mathrm{sd}_m(\beta_{gm})}{\sqrt M}, \qquad
          \mathrm{se}(\hat p_g) = \sqrt{\frac{\tilde p_g (1 - \tilde p_g)}{M}}, \qquad
          \tilde p_g = \frac{M \hat p_g + 1/2}{M + 1} .

With p̃ in the place of p̂ neither the error is zero nor the Bayes factor infinite where all draws agree: it is then
:math:`\log(2M + 1)`, which says that there were no more draws. If genes are called changed from the most probable one
down, the expected share of false ones among the first n is the mean of :math:`1 - \hat p` over these, ``fdr``.

The columns of the result, with a row for each gene:

* ``probability`` p̂, ``probability_error``, ``bayes_factor`` in nats, ``fdr``;
* ``lfc_mean`` β̂, ``lfc_error``, ``lfc_std``, and ``lfc_low`` to ``lfc_high``, between which 95 % of the draws are;
* ``expression1`` and ``expression2``, the mean of ρ times a typical library size;
* ``counts1`` and ``counts2``, the mean counts. Nothing is known of a gene without a count in both groups, and all other
  columns are NaN.

``attrs`` of the result has the settings; ``num_missing``, how many cells have no category in ``groupby``, that is, NaN,
and so belong to neither group; ``ess``, the mean effective sample size of K; and ``caveat``, see below.

Latents come from the posterior by importance resampling: K draws from the guide, of which one is taken by its weight.
With K = 1 they come from the guide, as in the papers, whatever it gets wrong. The errors are those of the M draws. They
say nothing of what K draws leave of the guide's error. Where the effective sample size is too low for that
(:mod:`pyro_vae.cells.expression`), a warning says so, and ``caveat`` in ``attrs`` has the sentence with a mark †. So it
has for K = 1. Nor do the errors tell what the trained model has got wrong, or how cells of one donor hang together.

Lopez et al., *Deep generative modeling for single-cell transcriptomics*, 2018; Boyeau et al., *Deep generative models
for detecting differential expression in single cells*, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vae.cells.expression import effective_size, expression_of, in_pieces, posterior_draws, resampled
from pyro_vae.cells.groups import Indices
from pyro_vae.cells.program import CellVAE
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["FoldChanges", "fold_changes", "summary"]


class FoldChanges(NamedTuple):
    """M draws of log₂ fold changes ``(M, G)``, mean shares ``(G,)`` of both groups, and ESS of K ``(2 M,)``."""

    draws: Tensor
    first: Tensor
    second: Tensor
    ess: Tensor


@torch.no_grad()
def fold_changes(
    vae: CellVAE,
    rows: Callable[[Tensor], Tensor],
    groups: tuple[Indices, Indices],
    *,
    code: int | None,
    pseudocount: float,
    num_samples: int,
    num_particles: int,
    seed: int | None,
) -> FoldChanges:
    """Draw log fold changes between two groups of cells.

    Parameters
    ----------
    vae
        The program.
    rows
        Returns packed cells ``(B, width)`` by their indices.
    groups
        The indices of the cells of both groups.
    code
        The batch in which all cells are seen; with ``None`` it is drawn with the other covariates.
    pseudocount
        ε.
    num_samples, num_particles, seed
        M, K, and the seed of the draws.
    """
    likelihood, (device, dtype) = expression_of(vae), placement(vae)
    num_genes = vae.layout.num_genes
    draws, means = torch.empty(num_samples, num_genes), [torch.zeros(num_genes).double() for _ in groups]
    ess: list[Tensor] = []
    with exclusive("differential_expression", brief=True), seeded(seed, device), evaluating(vae.model, vae.guide):
        first, second = map(torch.from_numpy, groups)
        both = torch.cat([first, second])
        chosen = [group[torch.randint(len(group), (num_samples,))] for group in (first, second, both)]
        for piece in in_pieces(vae, num_samples, num_particles):
            _, covariates = vae.layout.unpack(rows(chosen[2][piece]).to(device, dtype))
            seen = covariates if code is None else vae.layout.in_batch(covariates, code)
            shares = []
            for group, mean in zip(chosen[:2], means, strict=True):
                z, log_w = posterior_draws(vae, rows(group[piece]).to(device, dtype), num_particles)
                log_rho = likelihood.log_expression(resampled(z, log_w), seen).double()  # (B, G)
                rho = log_rho.exp()  # in float64, as a share below 1e-45 is zero in float32, and its change NaN
                mean += rho.sum(0).cpu() / num_samples
                ess.append(effective_size(log_w).cpu())
                shares.append(rho + pseudocount)
            draws[piece] = (shares[0].log2() - shares[1].log2()).to(draws)
    return FoldChanges(draws, means[0], means[1], torch.cat(ess))


def summary(
    changes: FoldChanges, counts: Sequence[npt.NDArray[Any]], delta: float, library_size: float
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of :meth:`pyro_vae.Cells.differential_expression`, arrays ``(G,)`` by name.

    ``counts`` are the mean counts of each gene in both groups. Genes without any have NaN in all other columns, and do
    not enter the expected share of false ones.

    >>> draws, means = torch.tensor([[1.0], [1.5], [2.0]]), (torch.tensor([0.3]), torch.tensor([0.1]))
    >>> changes = FoldChanges(draws, *means, ess=torch.ones(6))
    >>> found = summary(changes, [np.array([2.5]), np.array([1.0])], delta=0.25, library_size=10.0)
    >>> {name: round(float(values[0]), 4) for name, values in found.items()}  # log(2 M + 1) = 1.9459
    {'probability': 1.0, 'probability_error': 0.1909, 'bayes_factor': 1.9459, 'fdr': 0.0, 'lfc_mean': 1.5,
     'lfc_error': 0.2887, 'lfc_std': 0.5, 'lfc_low': 1.025, 'lfc_high': 1.975, 'expression1': 3.0, 'expression2': 1.0,
     'counts1': 2.5, 'counts2': 1.0}
    """
    draws = changes.draws.double().numpy()
    num_samples = len(draws)
    is_seen = counts[0] + counts[1] > 0
    probability = np.where(is_seen, (np.abs(draws) > delta).mean(0), np.nan)
    bounded = (num_samples * probability + 0.5) / (num_samples + 1)
    std = draws.std(0, ddof=1)
    low, high = np.quantile(changes.draws.numpy(), [0.025, 0.975], axis=0)
    order = np.argsort(-probability, kind="stable")  # NaN is last
    fdr = np.empty_like(probability)
    fdr[order] = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    found = {
        "probability": probability,
        "probability_error": np.sqrt(bounded * (1 - bounded) / num_samples),
        "bayes_factor": np.log(bounded) - np.log1p(-bounded),
        "fdr": fdr,
        "lfc_mean": draws.mean(0),
        "lfc_error": std / math.sqrt(num_samples),
        "lfc_std": std,
        "lfc_low": low,
        "lfc_high": high,
        "expression1": library_size * changes.first.numpy(),
        "expression2": library_size * changes.second.numpy(),
    }
    known = {name: np.where(is_seen, values, np.nan) for name, values in found.items()}
    return {**known, "counts1": counts[0], "counts2": counts[1]}
