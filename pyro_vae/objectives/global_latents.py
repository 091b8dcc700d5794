r"""What latents of all data at once add to a bound.

A latent W outside of the data plate is global. Its term enters once for all N data, by its ELBO, whatever the bound,

.. math:: \mathcal{L} = \mathbb{E}_{q(W)}\Bigl[\sum_b \mathrm{bound}(x_b | W)
          + \log\frac{p(W)}{q(W)}\Bigr] \le \log p(x_1, \dots, x_N) .

The K particles of a bound that is not linear in their log weights share one draw of W; a linear one, the ELBO, averages
over K draws. So it is a bound on every subsample of the data too, where the first sum is scaled by N/B. Each datum's
bound is reported with its share of the last term, 1/N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.reductions import mean_signal

__all__ = ["global_share", "global_surrogate"]


def global_share(pair: PairTrace, terms: dict[str, Tensor]) -> Tensor | None:
    """Return what the sites outside of the data plate add to the bound of each datum; ``None`` if there are none.

    ``terms`` are theirs, each ``(K,)``, or ``(1,)`` if particles share them.
    """
    return torch.stack(list(terms.values())).sum(0).mean() / pair.total_scale if terms else None


def global_surrogate(pair: PairTrace, terms: dict[str, Tensor], log_w: Tensor, bound: Tensor, log_q: Tensor) -> Tensor:
    r"""Return the share of a datum in a surrogate whose gradient is that of the score of global draws.

    .. math:: \bigl(L - \bar L\bigr)\, \nabla \log q(W), \qquad L = \sum_b \mathrm{bound}(x_b|W) + \log\frac{p(W)}{q(W)}

    The baseline is the mean over the other draws, and zero for a single one. ``log_q`` is ``(K,)`` or ``(1,)``.
    """
    total = torch.stack(list(terms.values())).sum(0).detach()
    if len(total) == 1:
        signal = total + (pair.common_scale * bound.detach()).sum()
    else:
        total = total + (pair.common_scale * log_w.detach()).sum(1)
        signal = mean_signal(total, (total.sum() - total) / (len(total) - 1))
    return (signal * log_q).sum() / pair.total_scale
