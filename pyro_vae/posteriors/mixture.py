r"""A posterior with several modes: a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.nn.layers import one_tensor
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale, check_bounds
from pyro_vae.runtime.arguments import PositiveNumber
from pyro_vae.runtime.kinds import Integers

__all__ = ["MixturePosterior"]


class MixturePosterior(Rebuildable):
    r"""A reparameterised mixture of diagonal Gaussians.

    .. math:: q(z|x) = \sum_{m=1}^M \pi_m(x)\, \mathcal{N}\bigl(z;\ \mu_m(x),\ \mathrm{diag}\,\sigma_m^2(x)\bigr)

    The choice of a component is discrete, but a draw has a pathwise gradient with respect to all parameters, including
    the weights. The distribution is Pyro's :class:`~pyro.distributions.MixtureOfDiagNormals`.

    Parameters
    ----------
    network
        The encoder, from x ``(*batch, *data_shape)`` to ``(*batch, M, 1 + 2 * latent_dim)``: the logit, μ and raw
        log-scale of each component.
    latent_dim
        The length of z, at least 2 for the gradient to exist.
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
    """Pyro's mixture, which lacks the mean, and the gradient of a draw where two components have the same μ."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        # Pyro divides by the distance between two means: equal ones, as of rectified units that are all off, are moved
        # apart by some roundings of the larger of |μ| and σ.
        same = (self.locs.unsqueeze(-2) == self.locs.unsqueeze(-3)).all(-1)  # (*batch, M, M)
        num_before = same.tril(-1).sum(-1, keepdim=True)  # (*batch, M, 1)
        rounding = 8 * torch.finfo(self.locs.dtype).eps * self.locs.abs().maximum(self.coord_scale)
        given, self.locs = self.locs, self.locs + num_before * rounding.detach()
        try:
            return super().rsample(torch.Size(sample_shape))
        finally:
            self.locs = given

    @property
    def mean(self) -> Tensor:
        return torch.einsum("...m,...md->...d", self.probs, self.locs)
