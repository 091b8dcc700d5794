r"""Normalising flows: noise sent through invertible maps, with the density that this gives.

.. math:: \epsilon \sim p_0(\epsilon|c), \qquad z = f(\epsilon; c), \qquad
          \log p(z|c) = \log p_0(\epsilon|c) - \log \Bigl|\det \frac{\partial f}{\partial \epsilon}\Bigr|

The maps are other people's: any flow of Zuko, any transform module of Pyro. What this file adds is how they are used
here. A map has a cheap direction and, most often, one that costs as many passes as z has entries (an autoregressive
map) or does not exist at all (a planar one). A posterior is drawn from at each step, so there the cheap direction makes
z from the noise: a masked autoregressive map becomes *inverse autoregressive flow* (Kingma et al., 2016). A prior is
asked for densities, so there the cheap direction makes noise from z (Papamakarios et al., *Masked Autoregressive Flow
for Density Estimation*, 2017).

Zuko's own distributions are not used: one that is imported into Pyro by Pyro's wrapper keeps every draw and its graph.
"""

from pyro_vae.flows.distribution import AnyFlow, FlowDistribution, check_flow, flow_distribution
from pyro_vae.flows.flow import Flow, FlowName, load_zuko
from pyro_vae.flows.sylvester import Sylvester

__all__ = [
    "AnyFlow",
    "Flow",
    "FlowDistribution",
    "FlowName",
    "Sylvester",
    "check_flow",
    "flow_distribution",
    "load_zuko",
]
