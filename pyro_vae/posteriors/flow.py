r"""Posteriors of any shape: a flow under a context that a network makes of the datum.

.. math:: q(z|x): \quad z = f\bigl(\epsilon;\ c(x)\bigr), \qquad \epsilon \sim p_0\bigl(\epsilon|c(x)\bigr)

Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015.
"""

from __future__ import annotations

from torch import Tensor, nn

from pyro_vae.flows import AnyFlow, FlowDistribution, check_flow, flow_distribution
from pyro_vae.nn.recipes import Rebuildable

__all__ = ["FlowPosterior"]


class FlowPosterior(Rebuildable):
    r"""A flow conditioned on the datum, drawn and scored in one pass.

    .. math:: \log q(z|x) = \log p_0\bigl(\epsilon|c(x)\bigr)
              - \log \Bigl|\det \frac{\partial f(\epsilon; c(x))}{\partial \epsilon}\Bigr|

    The flow's cheap direction makes z of the noise, so that masked autoregressive transforms are inverse autoregressive
    flow. The density of a z from elsewhere takes the other direction: with ``gradient="stl"`` and ``"dreg"``, where the
    parameters of the density are constants, it costs an autoregressive flow as many passes as z has entries, and a
    planar or Sylvester flow, which has no inverse, a Jacobian of each draw.

    Parameters
    ----------
    flow
        A :class:`~pyro_vae.flows.Flow`, or a conditional flow of Zuko such as ``zuko.flows.NSF(latent_dim,
        context_dim)``: what has a ``transform`` and a ``base`` to call with the context.
    network
        Takes x, ``(*batch, *data_shape)``, to the context, ``(*batch, context_dim)``.

    Raises
    ------
    TypeError
        If the flow is none.
    ValueError
        If the network gives a context of another length.

    References
    ----------
    Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016.

    Examples
    --------
    >>> import torch
    >>> from pyro_vae.flows import Flow
    >>> from pyro_vae.nn.mlp import MLP
    >>> posterior = FlowPosterior(Flow("autoregressive", 10, context_dim=200), MLP((28, 28), None, (200, 200)))
    >>> q = posterior(torch.zeros(3, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([3]), torch.Size([10]))
    """

    def __init__(self, flow: AnyFlow, network: nn.Module) -> None:
        super().__init__()
        check_flow(flow)
        self.flow, self.network = flow, network

    def forward(self, *x: Tensor) -> FlowDistribution:
        context = self.network(*x)
        expected = getattr(self.flow, "context_dim", context.shape[-1])  # a flow of Zuko does not tell
        if context.shape[-1] != expected:
            raise ValueError(
                f"FlowPosterior: found a network output of shape {tuple(context.shape)}, expected (*batch, {expected})"
            )
        return flow_distribution(self.flow, context, cheap="draws")
