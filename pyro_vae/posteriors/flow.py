r"""A flexible posterior: a normalising flow whose context is a function of the datum.

.. math:: q(z|x): \quad z = f\bigl(\epsilon;\ c(x)\bigr), \qquad \epsilon \sim p_0\bigl(\epsilon|c(x)\bigr)

Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015.
"""

from __future__ import annotations

from torch import Tensor, nn

from pyro_vae.flows import AnyFlow, FlowDistribution, check_flow, flow_distribution
from pyro_vae.nn.layers import one_tensor
from pyro_vae.nn.recipes import Rebuildable

__all__ = ["FlowPosterior"]


class FlowPosterior(Rebuildable):
    r"""A flow conditioned on the datum; a draw and its density take one pass.

    .. math:: \log q(z|x) = \log p_0\bigl(\epsilon|c(x)\bigr)
              - \log \Bigl|\det \frac{\partial f(\epsilon; c(x))}{\partial \epsilon}\Bigr|

    The flow's cheap direction maps noise to z, so that masked autoregressive transforms are an inverse autoregressive
    flow. The other direction is needed with ``gradient="stl"`` and ``"dreg"``, where the parameters of the density are
    constants. It costs an autoregressive flow as many passes as z has entries. Planar and Sylvester flows have no
    inverse and compute a Jacobian for each draw.

    Parameters
    ----------
    flow
        A :class:`~pyro_vae.flows.Flow`, or a conditional flow of Zuko such as ``zuko.flows.NSF(latent_dim,
        context_dim)``. It has a ``transform`` and a ``base``, which are called with the context.
    network
        The encoder, from x ``(*batch, *data_shape)`` to the context, ``(*batch, context_dim)``.

    Raises
    ------
    TypeError
        If ``flow`` is not a flow.
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
        context = one_tensor(self, self.network(*x))
        expected = getattr(self.flow, "context_dim", context.shape[-1])  # Zuko's flows have no such attribute
        if context.shape[-1] != expected:
            raise ValueError(
                f"FlowPosterior: found a network output of shape {tuple(context.shape)}, expected (*batch, {expected})"
            )
        return flow_distribution(self.flow, context, cheap="draws")
