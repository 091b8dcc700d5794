r"""The gradient of a bound, for every bound at once.

Let a bound be :math:`f(\ell_1, \dots, \ell_K)` of the log weights of K particles, and write :math:`f_k` and
:math:`f_{kk}` for its first and second derivative by :math:`\ell_k`. For IWAE these are the normalised weight
:math:`\tilde w_k` and :math:`\tilde w_k - \tilde w_k^2`, for the ELBO 1/K and 0. The guide's parameters φ reach
:math:`\ell_k = \log p(x, z_k) - \log q_\phi(z_k|x)` by the path through the draw :math:`z_k = z(\epsilon_k, \phi)` and
directly, by the score:

.. math:: \nabla_\phi f = \sum_k f_k \Bigl[\frac{\partial \ell_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}
          - \nabla_\phi \log q_\phi(z_k|x)\Bigr] .

* ``"reparam"`` takes both (Kingma and Welling, 2013).
* ``"stl"``, sticking the landing, drops the score (Roeder, Wu and Duvenaud, 2017). Its mean is zero in the ELBO, and
  where q is the posterior so is all that is left. In IWAE its mean is not zero, and the estimator is biased.
* ``"dreg"``, doubly reparameterised (Tucker, Lawson, Gu and Maddison, 2018), turns the score into a path by
  :math:`\mathbb{E}_q[g(z) \nabla_\phi \log q] = \mathbb{E}_\epsilon[\partial_z g \; \partial_\phi z]` with
  :math:`g = f_k`, whose derivative is :math:`f_{kk}\, \partial_z \ell_k`. So for any smooth f it is unbiased to weigh
  the path by :math:`f_k - f_{kk}` and drop the score: :math:`\tilde w_k^2` in IWAE, and sticking the landing in the
  ELBO. Where the latents' terms have a weight β in :math:`\ell_k`, so has the score, and the path's is
  :math:`f_k - \beta f_{kk}`; all latents must have one and the same.

A latent that cannot be reparameterised has no path, and its score is multiplied by a learning signal,

.. math:: \sum_k \bigl(f(\ell) - f(\ell^{[-k]})\bigr) \nabla_\phi \log q_\phi(z_k|x), \qquad
          \ell^{[-k]}_k = \tfrac{1}{K-1} \sum_{j \ne k} \ell_j ,

where :math:`\ell^{[-k]}` has the k-th log weight replaced by the mean of the others, which does not depend on
:math:`z_k`. In the ELBO this is the score function with the leave-one-out baseline, in IWAE it is VIMCO (Mnih and
Rezende, 2016). A single particle has no others, and no baseline.

The signals and the :math:`f_{kk}` of the package's bounds have closed forms, :mod:`pyro_vae.objectives.reductions`. For
other bounds they take K² B operations, done for so many particles at a time that memory stays in bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.flows import FlowDistribution
from pyro_vae.inference.plates import DataPlate
from pyro_vae.inference.sites import density, random_sites
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.reductions import Reduction, closed_form

__all__ = [
    "Gradient",
    "Path",
    "curvature",
    "differentiated",
    "learning_signal",
    "refuse",
    "sites_without_path",
    "slope",
    "weight_of_latents",
]

Gradient = Literal["reparam", "stl", "dreg"]
_CHUNK = 2**24  # numbers that a bound without a closed form is given at once


class Path:
    """Passes the latents to the densities and multiplies their gradient by ``weights`` ``(K, B)`` on the way back.

    The weights depend on the densities, so they are set after these are computed. Each latent is passed on as a new
    tensor: a flow caches its draws and their dependence on its parameters, and must not find the latent in its cache.
    """

    weights: Tensor | None = None
    plate: DataPlate | None = None
    shapes: Sequence[tuple[int, ...]] = ()  # of the weights in each run, particles, plates and data

    def set_runs(self, pair: PairTrace) -> None:
        """Note the data plate of the runs whose latents were passed on, and how many particles and data each has."""
        self.plate, shapes = pair.plate, []
        for part in pair.parts:  # which are not kept, as they hold the latents that hold the hooks
            shape = [part.num_particles, *[1] * part.max_plate_nesting]
            shape[part.data_dim] = part.num_data
            shapes.append(tuple(shape))
        self.shapes = shapes

    def surrogate(
        self, pair: PairTrace, reduce: Reduction, guide_bound: Reduction, log_w: Tensor, gradient: Gradient
    ) -> Tensor:
        """Return the surrogate ``(B,)`` of a bound that weighs the path by itself, and set the weights."""
        for_model, for_guide = slope(reduce, log_w).clamp(min=1e-20), slope(guide_bound, log_w)  # never divide by zero
        surrogate = (for_model * torch.where(log_w > -math.inf, log_w, 0.0)).sum(0)
        if gradient == "reparam":
            surrogate = surrogate + ((for_model - for_guide) * pair.log_q(scaled=True)).sum(0)
        if gradient == "dreg":
            for_guide = for_guide - weight_of_latents(pair) * curvature(guide_bound, log_w)
        self.weights = for_guide / for_model
        return surrogate

    def __call__(self, guide_trace: poutine.Trace, index: int = 0) -> poutine.Trace:
        trace = guide_trace.copy()
        for name, site in random_sites(guide_trace).items():
            fn, z = site["fn"], site["value"]
            z = fn.hand_on(z) if isinstance(fn, FlowDistribution) else z.view_as(z)
            if z.requires_grad:
                z.register_hook(self._weigh(site, index))
            node: Any = {**site, "value": z}
            trace.nodes[name] = node
        return trace

    def _weigh(self, site: dict[str, Any], index: int) -> Callable[[Tensor], Tensor]:
        """Return a hook for a latent of one of the runs that the particles were drawn in."""
        num_event_dims = len(site["fn"].event_shape)
        num_batch_dims = site["value"].dim() - num_event_dims
        frames = {"cond_indep_stack": site["cond_indep_stack"]}

        def weigh(gradient: Tensor) -> Tensor:
            if self.weights is None or self.plate is None or not self.plate.holds(frames):
                return gradient
            shape = self.shapes[index]
            weights = self.weights.reshape(len(self.shapes), -1)[index]
            return gradient * weights.reshape(*shape[len(shape) - num_batch_dims :], *[1] * num_event_dims)

        return weigh


def slope(reduce: Reduction, log_w: Tensor) -> Tensor:
    """Return the detached derivatives ``(K, B)`` of a bound by its log weights. They sum to 1 over the particles."""
    with torch.enable_grad():
        log_w = log_w.detach().requires_grad_()
        return torch.autograd.grad(reduce(log_w).sum(), log_w)[0]


def curvature(reduce: Reduction, log_w: Tensor) -> Tensor:
    """Return the detached second derivatives ``(K, B)`` of a bound, each by one log weight."""
    if (form := closed_form(reduce, "curvature")) is not None:
        return form(log_w.detach())
    with torch.enable_grad():
        log_w = log_w.detach().requires_grad_()
        first = torch.autograd.grad(reduce(log_w).sum(), log_w, create_graph=True)[0]
        if not first.requires_grad:  # a linear bound
            return torch.zeros_like(first)
        parts = []
        for one in _one_at_a_time(log_w):  # (C, K, 1)
            each = one.to(log_w.dtype).expand(-1, *log_w.shape)
            second = torch.autograd.grad(first, log_w, each, is_grads_batched=True, retain_graph=True)[0]  # (C, K, B)
            parts.append(torch.where(one, second, 0.0).sum(1))
    return torch.cat(parts)


def learning_signal(reduce: Reduction, log_w: Tensor) -> Tensor:
    """Return the detached learning signals ``(K, B)``, the bound minus the leave-one-out baseline of each draw."""
    log_w = log_w.detach()
    bound = reduce(log_w)
    if len(log_w) == 1:
        return bound[None]
    is_finite = log_w > -math.inf  # a draw of weight zero stays out of the others' baselines
    finite = torch.where(is_finite, log_w, 0.0)
    count = is_finite.sum(0) - is_finite.int()
    others = torch.where(count > 0, (finite.sum(0) - finite) / count.clamp(min=1), -math.inf)
    form = closed_form(reduce, "signal")
    signal = bound - _replaced(reduce, log_w, others) if form is None else form(log_w, others)
    return torch.where((bound > -math.inf) & (signal < math.inf), signal, bound)  # no baseline of minus infinity


def _replaced(reduce: Reduction, log_w: Tensor, others: Tensor) -> Tensor:
    """Return the bounds ``(K, B)`` with each log weight in turn replaced by that of ``others``."""
    parts = []
    for one in _one_at_a_time(log_w):  # (C, K, 1)
        without = torch.where(one, others, log_w).transpose(0, 1)  # (K, C, B)
        parts.append(reduce(without.flatten(1)).unflatten(0, without.shape[1:]))
    return torch.cat(parts)


def _one_at_a_time(log_w: Tensor) -> Iterator[Tensor]:
    """Yield masks ``(C, K, 1)``, each row of one particle, for as many particles at once as memory allows."""
    each = torch.arange(len(log_w), device=log_w.device)
    for some in each.split(max(1, _CHUNK // max(1, log_w.numel()))):
        yield (some[:, None] == each)[..., None]


def sites_without_path(pair: PairTrace) -> list[str]:
    """Return the names of the guide's sites that have a score but cannot be reparameterised."""
    return [
        name
        for name, site in pair.guide_sites.items()
        if not site["fn"].has_rsample and torch.is_grad_enabled() and density(site).requires_grad
    ]


def weight_of_latents(pair: PairTrace) -> Any:
    """Return the weight of all latents' terms under annealing and masks, 1 or ``(K, B)``.

    Raises
    ------
    ProgramError
        If the latents have different weights.
    """
    first, common = "", None
    for name in pair.scored_sites:
        if name in pair.global_sites:
            continue
        weight = pair.weight(name)
        if common is None:
            first, common = name, weight
        elif not (weight is common or bool(torch.as_tensor(weight == common).all())):
            raise ProgramError(
                f"site {name!r}: found a latent with another weight or mask than {first!r}, expected the same for all "
                "latents with gradient='dreg'; 'reparam' and 'stl' take any"
            )
    return 1.0 if common is None else common


def differentiated(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``surrogate``, and no gradient where the surrogate is not finite."""
    return value.detach() + torch.where(surrogate.isfinite(), surrogate - surrogate.detach(), 0.0)


def refuse(pair: PairTrace, names: list[str], gradient: Gradient, objective: str, weighs_the_path: bool) -> None:
    """Raise ``ProgramError`` for latents that an estimator cannot train.

    These are latents without a path (``names``) where the path is needed, and latents of all data where a bound weighs
    the path of others by itself: what they do to the densities of the guide would be counted twice.
    """
    for name in names if gradient != "reparam" else ():
        raise ProgramError(
            f"site {name!r}: found a latent that cannot be reparameterised ({pair.guide_sites[name]['fn']}), expected "
            f"one with rsample for gradient={gradient!r}; gradient='reparam' takes its score instead"
        )
    for name in pair.global_sites if weighs_the_path else ():
        raise ProgramError(
            f"site {name!r}: found outside the data plate with {objective}, expected gradient='reparam' and a bound "
            "that model and guide share, such as IWAE's, for programs with global latents"
        )
