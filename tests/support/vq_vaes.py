"""A small vector-quantised autoencoder, and each part of its bound by hand."""

from __future__ import annotations

from itertools import product

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.priors.codes import AutoregressiveCodes
from pyro_vae.programs import VQVAE
from tests.support.programs import IMAGE, bits, perturbed

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
K, CODE_SHAPE, CODE_DIM = 3, (2, 2), 2
GRIDS = torch.tensor(list(product(range(K), repeat=4))).reshape(-1, 2, 2)  # (81, 2, 2)
double = pytest.mark.usefixtures("double")


def make(**options) -> VQVAE:
    """2 x 2 codes of 4 x 4 images, with a prior that is not uniform."""
    prior = options.pop("prior", "independent")
    if prior == "autoregressive":
        prior = AutoregressiveCodes(CODE_SHAPE, K, hidden_dim=8, num_layers=1, num_heads=2)
    vq = VQVAE(IMAGE, K, CODE_DIM, (4,), **options, prior=prior)
    perturbed(vq.prior)
    return vq


def x(num_data=6):
    return bits(num_data).to(torch.get_default_dtype())


def by_hand(vq, data):
    """Each part of the bound, ``(B,)``, with nothing of the programs run."""
    outputs = vq.encoder(data)  # (B, 2, 2, 2)
    distances = (outputs[..., None, :] - vq.codebook.vectors).square().sum(-1)
    codes = distances.argmin(-1)
    z = vq.codebook.vectors[codes]
    logits = vq.likelihood.network(z.flatten(1))
    return dist.Bernoulli(logits=logits).to_event(2).log_prob(data), vq.prior().log_prob(codes), outputs, z, codes
