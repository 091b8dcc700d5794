r"""Normalising flows: noise through invertible maps, and the density of the result.

.. math:: \epsilon \sim p_0(\epsilon|c), \qquad z = f(\epsilon; c), \qquad
          \log p(z|c) = \log p_0(\epsilon|c) - \log \Bigl|\det \frac{\partial f}{\partial \epsilon}\Bigr|

The maps are flows of Zuko or transform modules of Pyro. A map has a cheap direction. The other direction costs as many
passes as z has entries (an autoregressive map) or does not exist (a planar map). A posterior is drawn from at each
training step, so its cheap direction maps noise to z: a masked autoregressive map becomes an *inverse autoregressive
flow* (Kingma et al., 2016). A prior is evaluated at each step, so its cheap direction maps z to noise (Papamakarios et
al., *Masked Autoregressive Flow for Density Estimation*, 2017).

Zuko's own distributions are not used, because Pyro's wrapper of them keeps every draw and its graph.
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
