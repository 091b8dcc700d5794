r"""A distribution as a map of noise.

.. math:: z = f(\epsilon), \qquad \epsilon \sim p_0, \qquad
          \log q(z) = \log p_0(\epsilon) - \log \Bigl|\det \frac{\partial f}{\partial \epsilon}\Bigr|

The noise takes all real values, so it can be moved without leaving the support of z. That of a Gaussian or a flow is
standard normal, and f moves and scales it. For every other distribution, f is Pyro's bijection from the real numbers to
its support, and the noise has whatever density that gives it. A distribution that is made by transforms has the noise
of the one that it is made from.

Hoffman, Sountsov, Dillon, Langmore, Tran and Vasudevan, *NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using
Neural Transport*, 2019.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from pyro_vae.flows import FlowDistribution
from pyro_vae.flows.gaussian import TriangularNormal

__all__ = ["LOG_NOISE", "AtNoise", "Mapped", "from_noise", "noise_dim", "share_at_bounds", "support_of", "to_noise"]

LOG_NOISE = "_log_noise"  # where a site keeps the log-density of its noise
_LOG_2_PI = math.log(2 * math.pi)
_WRAPPERS = (torch.distributions.Independent, dist.MaskedDistribution)
_MAPPED = (torch.distributions.Normal, torch.distributions.MultivariateNormal, FlowDistribution)
_ON_A_CIRCLE = (torch.distributions.VonMises, dist.SineBivariateVonMises)  # said to cover all real numbers


class Mapped(NamedTuple):
    """A value z, with the log-densities of its noise and of itself, both of the distribution's batch shape."""

    value: Tensor
    log_noise: Tensor
    log_q: Tensor


def noise_dim(fn: Any) -> int | None:
    """Return how many dimensions the noise of one event has, ``None`` where no map from real numbers is known.

    >>> noise_dim(dist.Gamma(1.0, 1.0)), noise_dim(dist.Dirichlet(torch.ones(3)))
    (0, 1)
    >>> noise_dim(dist.Bernoulli(0.5)), noise_dim(dist.Delta(torch.zeros(()))), noise_dim(dist.VonMises(0.0, 1.0))
    (None, None, None)
    """
    if isinstance(fn, torch.distributions.Independent):
        inner = noise_dim(fn.base_dist)
        return None if inner is None else inner + fn.reinterpreted_batch_ndims
    if isinstance(fn, dist.MaskedDistribution) or _is_mapped(fn):
        return noise_dim(fn.base_dist)
    if isinstance(fn, (dist.Delta, *_ON_A_CIRCLE)):
        return None
    try:
        return biject_to(support_of(fn)).domain.event_dim
    except NotImplementedError:
        return None


def _is_mapped(fn: Any) -> bool:
    """Return whether a distribution is one of other values that transforms map one to one."""
    return isinstance(fn, torch.distributions.TransformedDistribution) and all(map(_is_bijective, fn.transforms))


def _is_bijective(transform: Any) -> bool:
    return bool(transform.bijective)


def support_of(fn: Any) -> Any:
    """Return the support of a distribution, that of a mixture as the one that its components have in common.

    Raises
    ------
    NotImplementedError
        If the components of a mixture have supports of their own.
    """
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    if not isinstance(fn, torch.distributions.MixtureSameFamily):
        return fn.support
    support: Any = fn.component_distribution.support  # newer releases of torch give it no bijection
    base = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    if any(isinstance(bound, Tensor) and bound.dim() for bound in vars(base).values()):
        raise NotImplementedError(f"found components between bounds of their own, {base}")
    return support


def from_noise(fn: Any, noise: Tensor) -> Mapped:
    """Map noise to a value of a distribution.

    >>> from_noise(dist.Normal(1.0, 2.0), torch.tensor(0.5)).value
    tensor(2.)
    """
    if isinstance(fn, torch.distributions.Independent):
        value, *densities = from_noise(fn.base_dist, noise)
        return Mapped(value, *(sum_rightmost(each, fn.reinterpreted_batch_ndims) for each in densities))
    if isinstance(fn, dist.MaskedDistribution):
        value, log_noise, log_q = from_noise(fn.base_dist, noise)
        return Mapped(value, log_noise, torch.where(torch.as_tensor(fn._mask, device=log_q.device), log_q, 0.0))
    if isinstance(fn, torch.distributions.Normal):
        log_noise = -0.5 * (noise.square() + _LOG_2_PI)
        return Mapped(fn.loc + fn.scale * noise, log_noise, log_noise - fn.scale.log())
    if isinstance(fn, torch.distributions.MultivariateNormal):
        value = fn.loc + (fn.scale_tril @ noise[..., None])[..., 0]
        log_noise = -0.5 * (noise.square() + _LOG_2_PI).sum(-1)
        return Mapped(value, log_noise, log_noise - fn.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1))
    if isinstance(fn, FlowDistribution):
        base, log_noise, log_q = from_noise(fn.base, noise)
        value, log_det = fn.moved(base)
        return Mapped(value, log_noise, log_q - log_det)
    if _is_mapped(fn):
        return _through(fn, from_noise(fn.base_dist, noise))
    f = biject_to(support_of(fn))
    value = f(noise)
    log_det = f.log_abs_det_jacobian(noise, value)
    log_q = fn.log_prob(value)
    return Mapped(value, log_q + log_det, log_q)


def _through(fn: Any, mapped: Mapped) -> Mapped:
    """Send a value of a transformed distribution's base through the transforms."""
    value, log_noise, log_q = mapped
    terms = [log_q]
    for transform in fn.transforms:
        before, value = value, transform(value)
        terms.append(-transform.log_abs_det_jacobian(before, value))
    num_dims = value.dim() - fn.event_dim  # of the batch
    log_noise, *terms = (sum_rightmost(each, each.dim() - num_dims) for each in (log_noise, *terms))
    return Mapped(value, log_noise, torch.stack(torch.broadcast_tensors(*terms)).sum(0))


def to_noise(fn: Any, value: Tensor) -> Tensor:
    """Return the noise that is mapped to a value.

    Raises
    ------
    NotImplementedError
        If the distribution is a flow without an inverse, and the value is not its last draw.
    """
    if isinstance(fn, _WRAPPERS):
        return to_noise(fn.base_dist, value)
    if isinstance(fn, torch.distributions.Normal):
        return (value - fn.loc) / fn.scale
    if isinstance(fn, TriangularNormal):
        return fn.noise_of(value)
    if isinstance(fn, torch.distributions.MultivariateNormal):
        return torch.linalg.solve_triangular(fn.scale_tril, (value - fn.loc)[..., None], upper=False)[..., 0]
    if isinstance(fn, FlowDistribution):
        return to_noise(fn.base, fn.noise_of(value))
    if _is_mapped(fn):
        for transform in reversed(fn.transforms):
            value = transform.inv(value)
        return to_noise(fn.base_dist, value)
    return biject_to(support_of(fn)).inv(value)


def share_at_bounds(fn: Any, noise: Tensor) -> float:
    """Return for which share of noise a value rounds to a bound of the support, so that small steps do not change it.

    >>> share_at_bounds(dist.Beta(1.0, 1.0), torch.tensor([0.0, 40.0]))
    0.5
    """
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    if isinstance(fn, _MAPPED) or _is_mapped(fn):
        return 0.0
    f = biject_to(support_of(fn))
    value = f(noise)
    is_flat = (f(noise + 1) == value) | (f(noise - 1) == value)
    return is_flat.reshape(*is_flat.shape[: is_flat.dim() - fn.event_dim], -1).any(-1).double().mean().item()


class AtNoise(Messenger):
    """Let each latent be the image of its noise, and store the two densities with its site."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise and not msg["is_observed"]:
            mapped = from_noise(msg["fn"], self.noise[msg["name"]])
            msg["value"], msg["done"] = mapped.value, True
            msg["unscaled_log_prob"], msg[LOG_NOISE] = mapped.log_q, mapped.log_noise
