"""Programs whose networks take no dimension of particles, each for another reason."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae import log_weights

X = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64).reshape(5, 4)
NORM, CAT, SOFTMAX = "batch normalisation", "concatenation", "softmax over dim=1"


class Decoder(nn.Module):
    """A decoder that takes latents ``(B, L)`` alone, each in its own way."""

    def __init__(self, kind: str = "any") -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(4 if kind == CAT else 2, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.calls = 0

    def forward(self, z, ones):
        self.calls += 1
        if self.kind == CAT:
            return self.layer(torch.cat([z, ones], -1))
        out = self.layer(z)
        if self.kind == NORM:
            return self.norm(out)
        return out.softmax(1) if self.kind == SOFTMAX else out


class Programs(nn.Module):
    def __init__(self, kind: str = "any") -> None:
        super().__init__()
        self.decoder = Decoder(kind)
        self.encoder = nn.Linear(4, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z, x.new_ones(len(x), 2)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.8).to_event(1))


def programs(kind="any"):
    torch.manual_seed(2)
    return Programs(kind).eval()


def draws_and_weights(pair, way, num_particles=4):
    """The latents and the weights of a run in one way."""
    seen = []
    handle = pair.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    torch.manual_seed(5)
    log_w = log_weights(pair.model, pair.guide, X, num_particles, vectorize_particles=way)
    handle.remove()
    return torch.cat([z.reshape(-1, 5, 2) for z in seen]), log_w
