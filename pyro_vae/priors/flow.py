"""A flexible prior: a normalising flow from z to noise."""

from __future__ import annotations

import torch

from pyro_vae.flows import AnyFlow, FlowDistribution, check_flow, flow_distribution
from pyro_vae.nn.recipes import Rebuildable

__all__ = ["FlowPrior"]


class FlowPrior(Rebuildable):
    r"""A normalising flow as the prior.

    .. math:: \log p(z) = \log p_0\bigl(f(z)\bigr) + \log \Bigl|\det \frac{\partial f(z)}{\partial z}\Bigr|

    The flow's cheap direction scores z, as training does at each step. A draw takes the other direction, which costs a
    masked autoregressive flow as many passes as z has entries.

    Parameters
    ----------
    flow
        A :class:`~pyro_vae.flows.Flow` without a context, or a flow of Zuko such as ``zuko.flows.MAF(latent_dim)``. It
        must have an inverse to be drawn from; planar and Sylvester transforms have none.

    Raises
    ------
    TypeError
        If ``flow`` is not a flow.
    ValueError
        If the flow needs a context, or cannot be drawn from.

    References
    ----------
    Chen et al., *Variational Lossy Autoencoder*, 2017.

    Examples
    --------
    >>> from pyro_vae.flows import Flow
    >>> p = FlowPrior(Flow("autoregressive", latent_dim=5))()
    >>> p.batch_shape, p.event_shape, p.sample((3,)).shape
    (torch.Size([]), torch.Size([5]), torch.Size([3, 5]))
    """

    def __init__(self, flow: AnyFlow) -> None:
        super().__init__()
        check_flow(flow)
        self.flow = flow
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self().sample()
        except KeyError as error:  # how Pyro reports a transform without an inverse
            raise ValueError("flow: found one without an inverse, expected one that can be drawn from") from error
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"flow: found one that does not run without a context ({error}), expected one") from error

    def forward(self) -> FlowDistribution:
        return flow_distribution(self.flow, None, cheap="scores")
