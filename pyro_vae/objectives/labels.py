r"""Bounds for data whose label is a latent, which is summed out.

For each label y, a latent is drawn from the guide given that label, and has the weight

.. math:: \log w_{kyb} = \log p(x_b, y, z_{kyb}) - \log q(z_{kyb}|x_b, y), \qquad z_{kyb} \sim q(z|x_b, y) .

The mean of the log weights under the classifier gives the bound of the paper,

.. math:: -\mathcal{U}(x) = \sum_y q(y|x) \Bigl(\frac1K \sum_k \log w_{ky} - \log q(y|x)\Bigr),

Its gradient has none of the noise of a drawn label, at the price of one decoder pass for each label. Another bound is

.. math:: \mathcal{S}_K(x) = \log \frac1K \sum_k \sum_y w_{ky}

which needs no q(y|x). The sum :math:`\sum_y w_y` has the expectation :math:`\sum_y p(x, y) = p(x)`. So its logarithm
lies below log p(x) in the mean and rises to it with K, as in IWAE. For the same draws at K = 1, by Jensen's inequality,

.. math:: \log \sum_y w_y = \log \sum_y q(y|x) \frac{w_y}{q(y|x)} \ge \sum_y q(y|x) \log \frac{w_y}{q(y|x)},

for every classifier: :math:`\mathbb{E}\,\mathcal{S}_K \ge \mathbb{E}\,\mathcal{S}_1 \ge -\mathcal{U}`.

Kingma, Rezende, Mohamed and Welling, *Semi-supervised Learning with Deep Generative Models*, 2014; Burda, Grosse and
Salakhutdinov, *Importance Weighted Autoencoders*, 2015.
"""

from __future__ import annotations

import functools
import math
from contextlib import suppress
from typing import Literal

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.sites import Site, density
from pyro_vae.inference.traces import PairTrace
from pyro_vae.programs.semi_supervised import M2
from pyro_vae.runtime.arguments import PositiveInteger, checked

__all__ = [
    "all_labels",
    "enumerated_bound",
    "label_weights",
    "semi_supervised_loss",
    "summed_bound",
    "trace_labels",
    "weights_of_labels",
]

Kl = Literal["sample", "analytic"]


@checked
def label_weights(
    m2: M2,
    x: Tensor,
    num_particles: PositiveInteger = 1,
    kl_weight: float | Tensor = 1.0,
    kl: Kl = "sample",
) -> Tensor:
    r"""Return the log importance weights of each datum under each label, for each particle.

    .. math:: \log w_{kyb} = \log p(x_b|y, z_{kyb}) + \log p(y)
              + \beta \bigl(\log p(z_{kyb}) - \log q(z_{kyb}|x_b, y)\bigr)

    Parameters
    ----------
    m2
        The program.
    x
        Data ``(B, *data_shape)`` without labels.
    num_particles
        K, the number of latents drawn for each datum and label.
    kl_weight
        β. Values other than 1 are for training only, see :func:`semi_supervised_loss`.
    kl
        ``"analytic"`` replaces the last difference by its mean, minus the KL of z, where this has a closed form. The
        result is then no importance weight; it has the same mean and less noise.

    Returns
    -------
    Tensor
        ``(K, C, B)`` for C classes, nats, differentiable.

    Raises
    ------
    ValueError
        If ``num_particles`` is not a positive integer, x is of another shape, or ``kl`` is unknown.

    Examples
    --------
    >>> m2 = M2((4,), num_classes=3, latent_dim=2, hidden_dims=(8,))
    >>> label_weights(m2, torch.zeros(5, 4), num_particles=2).shape
    torch.Size([2, 3, 5])
    """
    labels = all_labels(m2.num_classes, x)
    model, guide = (functools.partial(isolated(half), y=labels) for half in (m2.model, m2.guide))
    return weights_of_labels(trace_labels(model, guide, labels, x, num_particles), kl, kl_weight)


def all_labels(num_classes: int, x: Tensor) -> Tensor:
    """Return each label for each datum, ``(C, B)``."""
    return torch.arange(num_classes, device=x.device)[:, None].expand(-1, len(x))


def trace_labels(
    model: StochasticFunction, guide: StochasticFunction, labels: Tensor, x: Tensor, num_particles: int
) -> PairTrace:
    """Run a pair once under all labels ``(C, B)``, which the programs have been given; a plate counts them."""
    with pyro.plate("labels", len(labels), dim=-2):
        return trace_pair(ProgramPair(model, guide, 2), x, num_particles)


def weights_of_labels(pair: PairTrace, kl: Kl, kl_weight: float | Tensor = 1.0, scaled: bool = False) -> Tensor:
    """Return the log weights ``(K, C, B)`` of a run under all labels, as :func:`label_weights`; masks count.

    With ``scaled``, each site is weighed by its scale relative to the common one; that is KL annealing.
    """
    num_classes = next(frame.size for frame in pair.model_sites["x"]["cond_indep_stack"] if frame.name == "labels")
    terms = {name: _log_prob(pair, site, scaled) for name, site in pair.model_sites.items()}
    terms["z"] = kl_weight * _latent_term(pair, kl, scaled)
    shape = (pair.num_particles, num_classes, pair.num_data)
    return torch.stack([term.expand(shape) for term in terms.values()]).sum(0)


def _latent_term(pair: PairTrace, kl: Kl, scaled: bool = False) -> Tensor:
    """Return log p(z) - log q(z|x, y), or its mean in closed form."""
    q, p = pair.guide_sites["z"], pair.model_sites["z"]
    if kl == "analytic":
        with suppress(NotImplementedError):
            divergence = torch.distributions.kl_divergence(q["fn"], p["fn"])
            return -scale_and_mask(divergence, pair.relative_scale(p) if scaled else 1.0, p["mask"])
    return _log_prob(pair, p, scaled) - _log_prob(pair, q, scaled)


def _log_prob(pair: PairTrace, site: Site, scaled: bool) -> Tensor:
    """Return the log-probability of a site's value for each label and datum."""
    return scale_and_mask(density(site), pair.relative_scale(site) if scaled else 1.0, site["mask"])


@checked
def enumerated_bound(
    m2: M2,
    x: Tensor,
    num_particles: PositiveInteger = 1,
    kl_weight: float | Tensor = 1.0,
    kl: Kl = "sample",
) -> Tensor:
    r"""Return :math:`-\mathcal{U}(x)` ``(B,)`` in nats, the mean over q(y|x) and the particles.

    Its mean over the draws is that of Pyro's ``TraceEnum_ELBO``. Here it is one number a datum and can be compiled. The
    arguments are those of :func:`label_weights`.
    """
    log_w = label_weights(m2, x, num_particles, kl_weight, kl).mean(0)  # (C, B)
    log_q = m2.guide.classifier(x).logits.log_softmax(-1).T  # (C, B)
    return (log_q.exp() * (log_w - log_q)).sum(0)


@checked
def summed_bound(m2: M2, x: Tensor, num_particles: PositiveInteger = 1) -> Tensor:
    r"""Return :math:`\mathcal{S}_K(x)` ``(B,)`` in nats, a bound no looser than :func:`enumerated_bound`.

    It does not depend on the guide's classifier and does not train it. The model's own posterior of the label is
    ``label_weights(m2, x, K).logsumexp(0).softmax(0)``, estimated from K latents a label.
    """
    log_w = label_weights(m2, x, num_particles)
    return log_w.flatten(0, 1).logsumexp(0) - math.log(num_particles)


@checked
def semi_supervised_loss(
    m2: M2,
    x: Tensor,
    y: Tensor,
    unlabelled: Tensor,
    alpha: float,
    kl_weight: float | Tensor = 1.0,
    kl: Kl = "analytic",
) -> Tensor:
    r"""Return the training loss of a labelled and an unlabelled batch, in nats per datum.

    .. math:: \mathcal{J}^\alpha = \frac1{B_l} \sum_b \bigl(\mathcal{L}(x_b, y_b) - \alpha \log q(y_b|x_b)\bigr)
              + \frac1{B_u} \sum_b \mathcal{U}(x_b)

    The bounds alone would train the classifier on unlabelled data only; the term with α trains it on the labels. The
    paper weights the two parts by their numbers of data. Here both batches count alike.

    A label is worth at most log C nats of a bound of a hundred or so. The decoder therefore soon learns to ignore the
    label, and the classifier stops learning. A weight β above 1 on the KL of z makes information in z expensive at
    first, so that the label is used. It falls to 1 during training.

    Parameters
    ----------
    m2
        The program.
    x, y
        Data ``(B_l, *data_shape)`` and their labels ``(B_l,)``, integers.
    unlabelled
        Data ``(B_u, *data_shape)``.
    alpha
        The weight α of the classifier's log-likelihood.
    kl_weight
        β: a number, or a tensor with one entry such as the ``value`` of a schedule.
    kl
        As for :func:`label_weights`. The noise of a sampled KL would hide the differences between labels from which
        the classifier learns.

    Examples
    --------
    >>> m2 = M2((4,), num_classes=3, latent_dim=2, hidden_dims=(8,))
    >>> loss = semi_supervised_loss(m2, torch.zeros(2, 4), torch.tensor([0, 2]), torch.zeros(5, 4), alpha=10.0)
    >>> loss.shape, loss.requires_grad
    (torch.Size([]), True)
    """
    model, guide = (functools.partial(isolated(half), y=y) for half in (m2.model, m2.guide))
    pair = trace_pair(ProgramPair(model, guide), x)
    terms = pair.terms()
    labelled = terms["x"] + terms["y"] + kl_weight * _latent_term(pair, kl)  # (1, B_l)
    log_q = m2.guide.classifier(x).log_prob(y)  # (B_l,)
    unlabelled_bound = enumerated_bound(m2, unlabelled, kl_weight=kl_weight, kl=kl)
    return -(labelled + alpha * log_q).mean() - unlabelled_bound.mean()
