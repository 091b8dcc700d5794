"""The weights of M2 by hand, label by label, and a posterior without a closed form of its KL."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import nn

from tests.support.labelled_gaussian import CLASSES
from tests.support.programs import LATENT_DIM

B = 6


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


class HeavyTailed(nn.Module):
    """A prior whose KL from a Gaussian torch does not know."""

    def forward(self):
        return dist.StudentT(3.0, torch.zeros(LATENT_DIM, dtype=torch.float64), 1.0).to_event(1)
