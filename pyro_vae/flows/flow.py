"""Flows by name: chains of transforms of Zuko and Pyro over a Gaussian."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast, get_args

import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vae.flows.sylvester import Sylvester
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale
from pyro_vae.runtime.arguments import Widths
from pyro_vae.runtime.kinds import Integers

__all__ = ["Flow", "FlowName", "load_zuko"]

_BINS = 8  # per spline

FlowName = Literal["autoregressive", "spline", "coupling", "planar", "householder", "sylvester"]
Transforms = Annotated[
    FlowName | Sequence[nn.Module], f"one of {', '.join(map(repr, get_args(FlowName)))}, or a list of modules"
]
_OneOrMore = Annotated[int, Integers("an integer of 1 or more", 1)]
_ZeroOrMore = Annotated[int, Integers("an integer of 0 or more", 0)]


class Flow(Rebuildable):
    r"""A chain of transforms over a diagonal Gaussian, both functions of a context c.

    .. math:: \epsilon \sim \mathcal{N}\bigl(\mu(c), \mathrm{diag}\,\sigma^2(c)\bigr), \qquad
              z = f_n(\cdot\,; c) \circ \dots \circ f_1(\epsilon; c)

    With a context it suits a :class:`~pyro_vae.posteriors.FlowPosterior`. Without one its base is the standard normal,
    and it suits a :class:`~pyro_vae.priors.FlowPrior`.

    Parameters
    ----------
    transforms
        A name, or a list of transform modules of Pyro or of lazy transforms of Zuko. Zuko's are ``"autoregressive"``
        (affine: IAF in a posterior, MAF in a prior), ``"spline"`` (autoregressive rational quadratic splines on
        [-5, 5]) and ``"coupling"`` (Real NVP, two halves). Pyro's are ``"planar"`` and ``"householder"``. The name
        ``"sylvester"`` stands for :class:`Sylvester`.
    latent_dim
        The length of z.
    context_dim
        The length of c; 0 for a flow without a context.
    num_transforms
        The number of transforms, if they are given by name.
    hidden_dims
        The widths of the hidden layers in each of these.

    Raises
    ------
    ValueError
        For an unknown name, a size that is not positive, or Pyro's own Sylvester transform, whose log-determinant does
        not belong to its map.

    References
    ----------
    Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015 (planar). Kingma et al., *Improving
    Variational Inference with Inverse Autoregressive Flow*, 2016. Durkan et al., *Neural Spline Flows*, 2019. Dinh et
    al., *Density Estimation Using Real NVP*, 2017. Tomczak and Welling, *Improving Variational Auto-Encoders using
    Householder Flow*, 2016. Van den Berg et al., *Sylvester Normalizing Flows for Variational Inference*, 2018.

    Examples
    --------
    >>> from pyro_vae.flows import flow_distribution
    >>> flow = Flow("autoregressive", latent_dim=5, context_dim=20)
    >>> flow_distribution(flow, torch.zeros(3, 20), cheap="draws").rsample().shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        transforms: Transforms,
        latent_dim: _OneOrMore,
        context_dim: _ZeroOrMore = 0,
        num_transforms: _OneOrMore = 2,
        hidden_dims: Widths = (128,),
    ) -> None:
        super().__init__()
        if isinstance(transforms, str):
            transforms = _named(transforms, latent_dim, context_dim, num_transforms, tuple(map(int, hidden_dims)))
        for transform in transforms:
            if isinstance(transform, dist.transforms.Sylvester):
                raise ValueError(
                    "transforms: found Pyro's Sylvester, whose log-determinant is not that of its map, expected "
                    "pyro_vae.flows.Sylvester"
                )
        self.latent_dim, self.context_dim = latent_dim, context_dim
        self.transforms = nn.ModuleList(transforms)
        self.base = _Start(latent_dim, context_dim)

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the chain of transforms under a context, ``(*batch, context_dim)``."""
        conditioned = []
        for transform in self.transforms:
            if isinstance(transform, ConditionalTransformModule):
                conditioned.append(transform.condition(context))
            elif isinstance(transform, Transform):  # a module of Pyro that takes no context
                conditioned.append(transform)
            else:
                conditioned.append(transform(context))
        return cast(Transform, load_zuko().transforms.ComposedTransform(*conditioned))


def _named(name: str, latent_dim: int, context_dim: int, count: int, hidden_dims: tuple[int, ...]) -> list[nn.Module]:
    """Return ``count`` transforms of a kind; those of Zuko start near the identity."""
    if name in ("autoregressive", "spline", "coupling"):
        options: dict[str, Any] = {"hidden_features": hidden_dims, "passes": 2 if name == "coupling" else None}
        if name == "spline":
            options["univariate"] = functools.partial(load_zuko().transforms.MonotonicRQSTransform, slope=1e-3)
            options["shapes"] = [(_BINS,), (_BINS,), (_BINS - 1,)]
        make = load_zuko().flows.autoregressive.MaskedAutoregressiveTransform
        upwards = torch.arange(latent_dim)
        orders = [upwards.flip(0) if i % 2 else upwards for i in range(count)]
        return [_quiet(make(latent_dim, context_dim, order=order, **options)) for order in orders]
    if name == "sylvester":
        return [Sylvester(latent_dim, context_dim) for _ in range(count)]
    library = dist.transforms
    if context_dim == 0:
        make = library.Planar if name == "planar" else library.Householder
        return [make(latent_dim) for _ in range(count)]
    if not hidden_dims:
        raise ValueError(f"hidden_dims: found none, expected one or more for {name!r} transforms of a context")
    make = library.conditional_planar if name == "planar" else library.conditional_householder
    return [make(latent_dim, context_dim, hidden_dims=list(hidden_dims)) for _ in range(count)]


def _quiet(transform: nn.Module) -> nn.Module:
    """Shrink the initial outputs of a transform's network, so that it starts near the identity."""
    last = [layer for layer in transform.modules() if isinstance(layer, nn.Linear)][-1:]
    with torch.no_grad():
        for layer in last:
            layer.weight.mul_(0.1)
            layer.bias.zero_()
    return transform


def load_zuko() -> Any:
    """Import Zuko, and restore the validation of distributions, which its import turns off in the whole process."""
    library, kept = torch.distributions.Distribution, {}
    if "zuko" not in sys.modules:
        kept = {name: vars(library)[name] for name in ("_validate_args", "arg_constraints")}
    zuko = importlib.import_module("zuko")
    for name, value in kept.items():
        setattr(library, name, value)
    return zuko


class _Start(nn.Module):
    """The Gaussian base of a flow: an affine function of the context, or the standard normal."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, context_dim: int) -> None:
        super().__init__()
        self.parameters_of = nn.Linear(context_dim, 2 * latent_dim) if context_dim else None
        if self.parameters_of is None:
            self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
            self.register_buffer("scale", torch.ones(latent_dim), persistent=False)
        else:
            nn.init.xavier_uniform_(self.parameters_of.weight)
            nn.init.zeros_(self.parameters_of.bias)

    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        if self.parameters_of is None:
            return dist.Normal(self.loc, self.scale).to_event(1)
        loc, raw = self.parameters_of(context).chunk(2, -1)  # (*batch, latent_dim) each
        return dist.Normal(loc, bounded_scale(raw, 1e-3, 1e3)).to_event(1)
