"""The weights and the objective of M2 by hand, label by label, and posteriors for them."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import nn

from tests.support.fixed_noise import Noised
from tests.support.labelled_gaussian import CLASSES
from tests.support.programs import LATENT_DIM

B = 6
NOISE = 0.7
SOME = torch.tensor([0, -1, 2, -1, -1, 0])  # labels of some of the data


def weights_by_hand(m2, x, num_particles=1, kl_weight=1.0):
    """log p(x, y, z) - log q(z|x, y), ``(K, C, B)``, label by label, on the draws that a run of seed 3 makes."""
    torch.manual_seed(3)
    noise = torch.randn(num_particles, CLASSES, len(x), m2.model.prior.latent_dim, dtype=x.dtype)
    columns = []
    for label in range(CLASSES):
        code = torch.zeros(len(x), CLASSES, dtype=x.dtype)
        code[:, label] = 1
        q = m2.guide.posterior(x, code)
        z = q.mean + q.base_dist.scale * noise[:, label]  # (K, B, L)
        log_p = m2.likelihood(torch.cat([z, code.expand(num_particles, -1, -1)], -1)).log_prob(x)
        ratio = m2.model.prior().log_prob(z) - q.log_prob(z)
        columns.append(log_p - math.log(CLASSES) + kl_weight * ratio)
    return torch.stack(columns, 1)


def bounds_by_hand(m2, x, y, beta=1.0, analytic=False):
    """Minus L(x, y) of each datum with a label and minus U(x) of the others, datum by datum; the noise is ``NOISE``.

    Returns the bounds ``(B,)`` and log q(y|x) ``(B,)``, which is 0 where there is no label.
    """
    bounds, scores = [], []
    for datum, label in zip(x, y.tolist(), strict=True):
        logits = m2.guide.classifier.network(datum[None])[0]
        log_q = logits - logits.exp().sum().log()
        of_labels = []
        for each in range(m2.num_classes):
            code = torch.zeros(m2.num_classes, dtype=x.dtype)
            code[each] = 1
            q = m2.guide.posterior.posterior(datum[None], code[None])
            mean, scale = q.mean[0], q.base_dist.scale[0]
            z = mean + NOISE * scale
            logit = m2.likelihood.network(torch.cat([z, code])).flatten()
            log_p = (datum.flatten() * logit - (1 + logit.exp()).log()).sum()
            divergence = (z.square() / -2 + NOISE**2 / 2 + scale.log()).sum().neg()
            if analytic:
                divergence = ((mean.square() + scale.square() - 1) / 2 - scale.log()).sum()
            of_labels.append(log_p - math.log(m2.num_classes) - beta * divergence)
        if label >= 0:
            bounds.append(of_labels[label])
            scores.append(log_q[label])
        else:
            bounds.append(sum(q.exp() * (w - q) for q, w in zip(log_q, of_labels, strict=True)))
            scores.append(torch.zeros_like(bounds[-1]))
    return torch.stack(bounds), torch.stack(scores)


class FixedNoise(nn.Module):
    """A Gaussian posterior whose every draw is the mean and ``NOISE`` scales."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x, y):
        q = self.posterior(x, y)
        noised = Noised(q.mean, q.base_dist.scale)
        noised.noise = torch.tensor(NOISE, dtype=x.dtype)
        return noised.to_event(1)


class HeavyTailed(nn.Module):
    """A prior whose KL from a Gaussian torch does not know."""

    def forward(self):
        return dist.StudentT(3.0, torch.zeros(LATENT_DIM, dtype=torch.float64), 1.0).to_event(1)
