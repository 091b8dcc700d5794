r"""A flow of each datum's own: affine couplings whose parameters belong to the datum and to no network.

The units u of a latent, where they are unconstrained, are cut into two parts. One is kept and moves the other,

.. math:: u'_B = u_B \odot e^{s} + t, \qquad (t, s) = V h\bigl(U [u_A, c] + b\bigr), \qquad
          \log \Bigl|\det \frac{\partial u'}{\partial u}\Bigr| = \sum s ,

and the next coupling cuts them otherwise. Half of the hidden units h are linear, so that a few couplings hold any
correlation of the units, and half are tanh, for what is not Gaussian. The context c are the latents that the guide drew
before, so that latents of several sites may depend on each other, too. The inverse costs as much as the map. V starts
at zero, and the map at the identity. A single unit without a context is left as it is.

Dinh, Sohl-Dickstein and Bengio, *Density Estimation Using Real NVP*, 2017; Cremer, Li and Duvenaud, *Inference
Suboptimality in Variational Autoencoders*, 2018.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

__all__ = ["Couple", "Coupling", "CouplingFlow"]

_HALF = 16  # hidden units of each kind
_LARGEST = 2.0  # of |s|: no draw moves a scale by more than a factor of 7
_MOST_CONTEXT = 256  # units of the latents drawn before; of a long chain, the last ones


class Coupling(NamedTuple):
    """One coupling of D units: the indices of A and B, and U, b and V of each datum, ``(*batch, ...)``."""

    kept: Tensor
    moved: Tensor
    inner: Tensor
    bias: Tensor
    outer: Tensor

    @classmethod
    def identity(cls, u: Tensor, moved: Tensor, num_context: int) -> Coupling:
        """Return a coupling of units ``(*batch, D)`` that does not move them yet; ``moved`` says which it will."""
        batch, num_kept = u.shape[:-1], int((~moved).sum())
        fan_in = num_kept + num_context
        inner = torch.randn(*batch, 2 * _HALF, fan_in, dtype=u.dtype, device=u.device) / fan_in**0.5
        bias = u.new_zeros(*batch, 2 * _HALF)
        outer = u.new_zeros(*batch, 2 * int(moved.sum()), 2 * _HALF)
        leaves = (each.requires_grad_() for each in (inner, bias, outer))
        return cls((~moved).nonzero()[:, 0], moved.nonzero()[:, 0], *leaves)

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is trained."""
        return self.inner, self.bias, self.outer

    def shift_and_log_scale(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return t and s, ``(*sample, *batch, |B|)``, from units of which B is not looked at."""
        kept = u[..., self.kept]
        if context is not None:
            kept = torch.cat([kept, context.expand(*u.shape[:-1], context.shape[-1])], -1)
        hidden = _product(self.inner, kept) + self.bias
        hidden = torch.cat([hidden[..., :_HALF], hidden[..., _HALF:].tanh()], -1)
        shift, raw = (_product(self.outer, hidden) / (2 * _HALF) ** 0.5).chunk(2, -1)
        return shift, _LARGEST * (raw / _LARGEST).tanh()

    def replaced(self, u: Tensor, moved: Tensor) -> Tensor:
        """Return units with others in the places of B."""
        return u.index_copy(-1, self.moved, moved)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the products of matrices ``(*batch, n, m)`` and vectors ``(*sample, *batch, m)``, batched by datum."""
    num_sample = vector.dim() - matrix.dim() + 1
    batch = matrix.shape[:-2]
    samples = vector.expand(*vector.shape[:num_sample], *batch, vector.shape[-1]).reshape(-1, *batch, vector.shape[-1])
    result = (matrix @ samples.movedim(0, -1)).movedim(-1, 0)  # (S, *batch, n)
    return result.reshape(*vector.shape[:num_sample], *result.shape[1:])


class CouplingFlow(Transform):
    """Couplings one after the other, of latents with ``num_dims`` dimensions, under a context or none."""

    bijective = True

    def __init__(self, couplings: list[Coupling], num_dims: int, context: Tensor | None) -> None:
        super().__init__(cache_size=1)
        self.domain = self.codomain = constraints.independent(constraints.real, num_dims)
        self.couplings, self.num_dims, self.context = couplings, num_dims, context
        self._known: tuple[Tensor, Tensor, Tensor] | None = None  # the last u, what it became, and the determinant

    def _call(self, x: Tensor) -> Tensor:
        u, log_det = _flat(x, self.num_dims), x.new_zeros(())
        for coupling in self.couplings:
            shift, log_scale = coupling.shift_and_log_scale(u, self.context)
            u = coupling.replaced(u, u[..., coupling.moved] * log_scale.exp() + shift)
            log_det = log_det + log_scale.sum(-1)
        return self._remember(x, u.reshape(x.shape), log_det)[1]

    def _inverse(self, y: Tensor) -> Tensor:
        u, log_det = _flat(y, self.num_dims), y.new_zeros(())
        for coupling in reversed(self.couplings):
            shift, log_scale = coupling.shift_and_log_scale(u, self.context)
            u = coupling.replaced(u, (u[..., coupling.moved] - shift) * (-log_scale).exp())
            log_det = log_det + log_scale.sum(-1)
        return self._remember(u.reshape(y.shape), y, log_det)[0]

    def _remember(self, x: Tensor, y: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._known = x, y, log_det
        return self._known

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._known is None or self._known[0] is not x or self._known[1] is not y:
            self._call(x)
        assert self._known is not None
        return self._known[2]


def _flat(value: Tensor, event_dim: int) -> Tensor:
    """``(*batch, *event)`` to ``(*batch, D)``."""
    return value.reshape(*value.shape[: value.dim() - event_dim], -1)


class Couple(Messenger):
    """Sends each latent through couplings; at first sight of one, through identities, which are kept."""

    def __init__(self, couplings: dict[str, list[Coupling]]) -> None:
        super().__init__()
        self.couplings = couplings
        self.plates: dict[str, set[str]] = {}  # the guide's own, of each latent so far
        self.drawn: dict[str, Tensor] = {}  # its units

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        fn, mask = msg["fn"], None
        if isinstance(fn, dist.MaskedDistribution):  # which then hides the determinants, too
            fn, mask = fn.base_dist, fn._mask
        to_support = biject_to(fn.support)
        self.plates[msg["name"]] = {frame.name for frame in msg["cond_indep_stack"]}
        context = self._context(msg["name"])
        if msg["name"] not in self.couplings:
            with torch.no_grad():
                u = to_support.inv(fn.sample())
            units = _flat(u, to_support.domain.event_dim)
            self.couplings[msg["name"]] = _identities(units, 0 if context is None else context.shape[-1])
        if not (couplings := self.couplings[msg["name"]]):
            return
        flow: list[Any] = [CouplingFlow(couplings, to_support.domain.event_dim, context)]
        if not _is_real(fn.support):
            flow = [to_support.inv.with_cache(), *flow, to_support.with_cache()]
        fn = dist.TransformedDistribution(fn, flow)
        msg["fn"] = fn if mask is None else fn.mask(mask)

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            to_support = biject_to(msg["fn"].support)
            self.drawn[msg["name"]] = _flat(to_support.inv(msg["value"]), to_support.domain.event_dim)

    def _context(self, name: str) -> Tensor | None:
        """Return what was drawn before in no other plates, ``(*batch, C)``; of more units than fit, the last."""
        found = [units for other, units in self.drawn.items() if self.plates[other] <= self.plates[name]]
        if not found:
            return None
        batch = torch.broadcast_shapes(*(units.shape[:-1] for units in found))
        return torch.cat([units.expand(*batch, -1) for units in found], -1)[..., -_MOST_CONTEXT:]


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def _identities(units: Tensor, num_context: int) -> list[Coupling]:
    """Return four couplings: of the even units, the odd ones, and each half; those with anything to look at."""
    index = torch.arange(units.shape[-1], device=units.device)
    first = index < len(index) // 2
    return [
        Coupling.identity(units, moved, num_context)
        for moved in (index % 2 == 0, index % 2 == 1, first, ~first)
        if moved.any() and (not moved.all() or num_context)
    ]
