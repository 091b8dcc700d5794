r"""The VampPrior, an approximation of the prior that maximises the bound.

For a given likelihood and guide, the ELBO averaged over the data is largest under the *aggregate posterior*

.. math:: p^*(z) = \frac1N \sum_{n=1}^N q(z|x_n) .

It costs a pass over all data and overfits. The "variational mixture of posteriors", VampPrior, replaces the data by a
few hundred learned *pseudo-inputs*. Its encoder is that of the guide.

Tomczak and Welling, *VAE with a VampPrior*, 2018.
"""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.flows import FlowDistribution
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.priors.mixture import mixture
from pyro_vae.runtime.arguments import Array, DataShape, PositiveInteger, checked

__all__ = ["Components", "VampPrior"]

Components = Literal["posterior", "start"]


class VampPrior(Rebuildable):
    r"""A mixture of posteriors at learned pseudo-inputs.

    .. math:: p(z) = \frac1M \sum_{m=1}^M q(z|u_m)

    It runs the guide's posterior but does not own it. In a :class:`pyro_vae.VAE`, model and guide hold the posterior
    under the same attribute path, so that Pyro's ``SVI`` updates it once.

    Parameters
    ----------
    num_pseudo_inputs
        M; the paper uses 500 for MNIST.
    posterior
        The guide's posterior.
    data_shape
        The shape of a pseudo-input, which is that of a datum. Pseudo-inputs start as noise around 0.5; data are a
        better start, see :meth:`start_at`.
    components
        ``"posterior"``: q itself. With a :class:`~pyro_vae.posteriors.FlowPosterior` every component is then inverted
        at every z, which is slow for an autoregressive flow. ``"start"``: the Gaussian base of the flow.

    Raises
    ------
    ValueError
        If ``num_pseudo_inputs`` is not a positive integer, or for unknown components. When run, if ``components`` is
        ``"start"`` and the posterior is not a flow.

    References
    ----------
    Tomczak and Welling, *VAE with a VampPrior*, 2018.

    Examples
    --------
    >>> from pyro_vae import MLP, VAE, DiagonalNormal
    >>> posterior = DiagonalNormal(MLP((28, 28), (2, 10)))
    >>> prior = VampPrior(500, posterior, (28, 28))
    >>> vae = VAE((28, 28), 10, prior=prior, posterior=posterior)
    >>> vae.sample(3).shape
    torch.Size([3, 28, 28])
    """

    def __init__(
        self,
        num_pseudo_inputs: PositiveInteger,
        posterior: nn.Module,
        data_shape: DataShape,
        components: Components = "posterior",
    ) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(0.5 + 0.1 * torch.randn(num_pseudo_inputs, *data_shape))
        self.components = components
        self._posterior = (posterior,)  # in a tuple, so that it does not register as a submodule of the prior

    @property
    def shared(self) -> dict[str, nn.Module]:
        """The parts of the guide that the prior runs, by the names of their attributes in the guide."""
        return {"posterior": self._posterior[0]}

    def forward(self) -> dist.Distribution:
        q = self._posterior[0](self.pseudo_inputs)  # M of them
        if self.components == "start":
            if not isinstance(q, FlowDistribution):
                raise ValueError(f"components: found 'start' with {q}, expected a FlowPosterior, or 'posterior'")
            q = q.base
        return mixture(self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)), q)

    @checked
    @torch.no_grad()
    def start_at(self, x: Array) -> None:
        """Set the pseudo-inputs to the first M of the data, ``(N, *data_shape)``, which are repeated if N < M.

        Raises
        ------
        ValueError
            If the data have another shape.
        """
        data_shape = self.pseudo_inputs.shape[1:]
        x = torch.as_tensor(x)
        if x.shape[1:] != data_shape or len(x) == 0:
            raise ValueError(f"x: found the shape {tuple(x.shape)}, expected (N, {', '.join(map(str, data_shape))})")
        rows = torch.arange(len(self.pseudo_inputs)) % len(x)
        self.pseudo_inputs.copy_(x[rows.to(x.device)])
