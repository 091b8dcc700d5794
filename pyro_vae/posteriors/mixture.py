r"""A posterior with several modes: a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.nn.layers import one_tensor
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale, check_bounds
from pyro_vae.posteriors.pathwise import MixtureDraw
from pyro_vae.runtime.arguments import PositiveNumber
from pyro_vae.runtime.kinds import Integers

__all__ = ["MixturePosterior"]


class MixturePosterior(Rebuildable):
    r"""A reparameterised mixture of diagonal Gaussians.

    .. math:: q(z|x) = \sum_{m=1}^M \pi_m(x)\, \mathcal{N}\bigl(z;\ \mu_m(x),\ \mathrm{diag}\,\sigma_m^2(x)\bigr)

    The choice of a component is discrete, but a draw has a pathwise gradient with respect to all parameters, including
    the weights, see :mod:`pyro_vae.posteriors.pathwise`. The density is that of Pyro's
    :class:`~pyro.distributions.MixtureOfDiagNormals`.

    Parameters
    ----------
    network
        The encoder, from x ``(*batch, *data_shape)`` to ``(*batch, M, 1 + 2 * latent_dim)``: the logit, μ and raw
        log-scale of each component.
    latent_dim
        The length of z, at least 2.
    low, high
        The bounds of σ, see :func:`pyro_vae.nn.scales.bounded_scale`.

    Raises
    ------
    ValueError
        If ``latent_dim`` is below 2, or the network gives another shape.

    References
    ----------
    Jankowiak and Karaletsos, *Pathwise Derivatives for Multivariate Distributions*, 2019.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> q = MixturePosterior(MLP((28, 28), (3, 1 + 2 * 10)), latent_dim=10)(torch.zeros(5, 28, 28))
    >>> q.batch_shape, q.event_shape, q.has_rsample
    (torch.Size([5]), torch.Size([10]), True)
    """

    def __init__(
        self,
        network: nn.Module,
        latent_dim: Annotated[int, Integers("an integer of 2 or more", 2)],
        low: PositiveNumber = 1e-3,
        high: PositiveNumber = 1e3,
    ) -> None:
        super().__init__()
        check_bounds(low, high)
        self.network, self.latent_dim = network, latent_dim
        self.low, self.high = low, high

    def forward(self, *x: Tensor) -> dist.TorchDistribution:
        parameters = one_tensor(self, self.network(*x))
        if parameters.dim() < 2 or parameters.shape[-1] != 1 + 2 * self.latent_dim:
            raise ValueError(
                f"MixturePosterior: found a network output of shape {tuple(parameters.shape)}, expected (*batch, "
                f"num_components, {1 + 2 * self.latent_dim})"
            )
        logits, loc, raw = parameters.split([1, self.latent_dim, self.latent_dim], -1)  # (*batch, M, ...) each
        return _Mixture(loc, bounded_scale(raw, self.low, self.high), logits.squeeze(-1))


class _Mixture(dist.MixtureOfDiagNormals):
    """Pyro's mixture with a mean, and with the gradient of :mod:`pyro_vae.posteriors.pathwise` for its draws."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        which = self.categorical.sample(torch.Size(sample_shape))  # (*sample, *batch)
        noise = self.locs.new_empty((*which.shape, self.dim)).normal_()
        return cast(Tensor, MixtureDraw.apply(self.locs, self.coord_scale, self.component_logits, which, noise))

    @property
    def mean(self) -> Tensor:
        return torch.einsum("...m,...md->...d", self.probs, self.locs)
