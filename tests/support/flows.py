"""Every flow of the package and three of Zuko's, away from where they start."""

from __future__ import annotations

import pytest
import torch

from pyro_vae import Flow
from pyro_vae.flows import flow_distribution, load_zuko

zuko = load_zuko()
NAMES = ("autoregressive", "spline", "coupling", "planar", "householder", "sylvester")
WITHOUT_INVERSE = ("planar", "sylvester")
ZUKO = {
    "NSF": lambda d, c: zuko.flows.NSF(d, c, hidden_features=(5,)),
    "NICE": lambda d, c: zuko.flows.NICE(d, c, hidden_features=(5,)),
    "NAF": lambda d, c: zuko.flows.NAF(d, c, transforms=1, hidden_features=(5,), network={"hidden_features": (5,)}),
}
FLOWS = {name: lambda d, c, n=name: Flow(n, d, c, hidden_dims=(5,)) for name in NAMES} | ZUKO
every_flow = pytest.mark.parametrize("name", FLOWS)
invertible = pytest.mark.parametrize("name", [name for name in FLOWS if name not in WITHOUT_INVERSE])


def moved(flow):
    """A flow away from where it starts; its buffers are masks, and stay."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return flow


def drawn_from(name, num_contexts=3, latent_dim=2, context_dim=4):
    """A flow away from where it starts, under some contexts."""
    torch.manual_seed(0)
    flow = moved(FLOWS[name](latent_dim, context_dim).double())
    return flow, flow_distribution(flow, torch.randn(num_contexts, context_dim, dtype=torch.float64), cheap="draws")
