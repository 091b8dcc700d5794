r"""The prior that maximises the bound, cut down to what can be computed.

For given model and guide the ELBO, averaged over the data, is largest under the *aggregate posterior*

.. math:: p^*(z) = \frac1N \sum_{n=1}^N q(z|x_n),

which costs a pass over all the data and overfits. A few hundred *pseudo-inputs* in their place, learned with all else,
make the "variational mixture of posteriors", the VampPrior. Its encoder is the guide's own.

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

    It runs the guide's posterior and does not own it: in a :class:`pyro_vae.VAE` model and guide hold that by the same
    attribute path, so that Pyro's ``SVI`` steps it once.

    Parameters
    ----------
    num_pseudo_inputs
        M; the paper has 500 for MNIST.
    posterior
        The guide's posterior.
    data_shape
        Shape of a pseudo-input: that of a datum. They start at noise around 0.5; :meth:`start_at` is better.
    components
        ``"posterior"``: q itself. With a :class:`~pyro_vae.posteriors.FlowPosterior` each component is then inverted at
        each z, which for an autoregressive flow is slow. ``"start"``: the Gaussians that the flow starts with.

    Raises
    ------
    ValueError
        If ``num_pseudo_inputs`` is not a positive integer, for unknown components, or, when run, where a posterior that
        is no flow is asked for its start.

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
        self._posterior = (posterior,)  # in a tuple: the guide's, not a part of the prior

    @property
    def shared(self) -> dict[str, nn.Module]:
        """The parts of the guide that it runs, by the attribute that holds them there."""
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
        """Let the pseudo-inputs start at data, ``(N, *data_shape)``: the first M, or all of them again and again.

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
