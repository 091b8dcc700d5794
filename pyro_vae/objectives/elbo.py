r"""The evidence lower bound, by both estimators of the AEVB paper.

.. math::

    \mathcal{L}^A(x) &= \frac1K \sum_k \log p(x, z_k) - \log q(z_k|x) \\
    \mathcal{L}^B(x) &= -\mathrm{KL}\bigl(q(z|x) \,\|\, p(z)\bigr) + \frac1K \sum_k \log p(x|z_k)

with :math:`z_k \sim q(z|x)`. Both have the same mean, and

.. math:: \log p(x) = \mathcal{L}(x) + \mathrm{KL}\bigl(q(z|x) \,\|\, p(z|x)\bigr).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.importance import PairTrace
from pyro_vae.objectives.objective import Objective

__all__ = ["ELBO"]


class ELBO(Objective):
    r"""The mean log weight.

    .. math:: \mathrm{ELBO}(x_b) = \frac1K \sum_k \log w_{kb}

    Parameters
    ----------
    num_particles
        K; more particles lower the variance of the gradient and leave the bound where it is.
    kl
        ``"sample"`` for the paper's :math:`\mathcal{L}^A`. ``"analytic"`` for :math:`\mathcal{L}^B`: the KL of each
        latent site in closed form where torch knows one for its two distributions *and* the model's depends on no
        latent that the guide draws later *and* both programs scale and mask the site alike; by samples elsewhere.
    max_plate_nesting
        How many plates the programs have, the data plate included.

    Raises
    ------
    ValueError
        For an unknown ``kl`` or a count that is not a positive integer.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, equations 6 and 7.

    Examples
    --------
    >>> import torch
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> ELBO(num_particles=3).bound(vae.model, vae.guide, torch.zeros(5, 4)).shape
    torch.Size([5])
    """

    def __init__(
        self, num_particles: int = 1, *, kl: Literal["sample", "analytic"] = "sample", max_plate_nesting: int = 1
    ) -> None:
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)
        if kl not in ("sample", "analytic"):
            raise ValueError(f"kl: found {kl!r}, expected one of 'sample', 'analytic'")
        self.kl = kl

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    def terms(self, pair: PairTrace) -> dict[str, Tensor]:
        terms = super().terms(pair)
        if self.kl == "analytic":
            for name in pair.latents:
                kl = _analytic_kl(pair, name)
                if kl is not None:
                    terms[name] = -kl
        return terms


def _analytic_kl(pair: PairTrace, name: str) -> Tensor | None:
    """KL(q ‖ p) of one site given the sites before it, ``(K, B)``, or ``None`` where it must be sampled.

    Integrating a latent out is right only if the model's distribution of it was fixed before it was drawn: every
    latent that comes before it in the model must come before it in the guide as well.
    """
    model_order, guide_order = list(pair.latents), list(pair.guide_sites)
    before_in_model = set(model_order[: model_order.index(name)])
    if not before_in_model <= set(guide_order[: guide_order.index(name)]):
        return None
    site, model_site = pair.guide_sites[name], pair.model_sites[name]
    if site["scale"] is not model_site["scale"] and site["scale"] != model_site["scale"]:
        return None  # one factor cannot weigh both halves
    if site["mask"] is not model_site["mask"]:
        return None
    try:
        kl = kl_divergence(site["fn"], model_site["fn"])
    except NotImplementedError:
        return None
    return pair.per_datum(kl, site, scaled=True)
