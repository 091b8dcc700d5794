r"""A bound on log p(x) as a Pyro loss.

An objective reduces the log weights of K particles to one number a datum, larger is better:

.. math:: \mathrm{bound}(x_b) = r(\log w_{1b}, \dots, \log w_{Kb}), \qquad
          \mathrm{loss} = -s \sum_b \mathrm{bound}(x_b)

The sign changes here and nowhere else. The scale s is that of the observed site, from a subsampling plate or
``poutine.scale``. It multiplies the loss, outside every logarithm. A latent site with another scale has its log p and
log q multiplied by the ratio of the two scales, which is KL annealing. The *true* bound is the one without annealing,
and is the one reported.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_vae.errors import failing_on
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.gradients import (
    Gradient,
    Path,
    curvature,
    differentiated,
    learning_signal,
    refuse,
    sites_without_path,
    slope,
    weight_of_latents,
)
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.objects import Instances

__all__ = ["AnyObjective", "Estimate", "Objective"]


AnyObjective = Annotated[
    pyro.infer.ELBO, Instances("one such as ELBO() or a Pyro ELBO", pyro.infer.ELBO, by_value=True)
]


class Estimate(NamedTuple):
    """The scalar ``loss`` and two bounds ``(B,)`` in nats, with and without annealing, from one run of a pair."""

    loss: Tensor
    bound: Tensor
    true_bound: Tensor


class Objective(pyro.infer.ELBO):
    """Base class of the bounds. A subclass defines :meth:`reduce`, from K log weights to one bound.

    It is a Pyro ELBO: ``SVI(model, guide, optim, loss=objective)`` trains with it, and ``objective(model, guide)`` is a
    module whose forward returns the loss.

    Parameters
    ----------
    num_particles
        K, the number of latents drawn for each datum.
    gradient
        The estimator of the guide's gradient, see :mod:`pyro_vae.objectives.gradients`. ``"reparam"`` takes the path
        through the draws and the score. ``"stl"`` takes the path alone (unbiased for the ELBO only). ``"dreg"`` takes
        the path alone, weighted to be unbiased for every smooth bound, with weights of K² B numbers. The value of the
        bound is the same. Latents that cannot be reparameterised are trained by their score, under ``"reparam"``.
    max_plate_nesting
        The number of plates in the programs, the data plate included.

    Raises
    ------
    ValueError
        If ``num_particles`` or ``max_plate_nesting`` is not a positive integer, or ``gradient`` is unknown.
    ProgramError
        When run: if the programs do not form a pair, or a latent does not support ``gradient``.
    """

    @checked
    def __init__(
        self,
        num_particles: PositiveInteger = 1,
        *,
        gradient: Gradient = "reparam",
        max_plate_nesting: PositiveInteger = 1,
    ) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        self.gradient = gradient

    def __repr__(self) -> str:
        shown = {**self.arguments(), "num_particles": self.num_particles}
        if self.gradient != "reparam":
            shown["gradient"] = self.gradient
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of this bound alone, by name, for its ``repr``."""
        return {}

    @property
    def total_particles(self) -> int:
        """The number of latents drawn for each datum, in all batches of particles."""
        return self.num_particles

    @abstractmethod
    def reduce(self, log_w: Tensor) -> Tensor:
        """Reduce log weights ``(K, B)`` to bounds ``(B,)``, in nats, each datum by itself."""

    def reduce_for_guide(self, log_w: Tensor) -> Tensor:
        """Return the bound that trains the guide, by default that of the model."""
        return self.reduce(log_w)

    def terms(self, pair: PairTrace, scaled: bool) -> dict[str, Tensor]:
        """Return each site's term ``(K, B)`` of the log weight; without ``scaled``, of that of the true bound."""
        return pair.terms(scaled)

    def log_weights(self, pair: PairTrace, scaled: bool) -> Tensor:
        """Return the log weights ``(K, B)`` that the bound reduces, the sum of the terms."""
        return torch.stack(list(self.terms(pair, scaled).values())).sum(0)

    def is_true(self, pair: PairTrace) -> bool:
        """Return whether the bound is the true one, without annealing or another change of the KL."""
        return not pair.is_annealed

    @checked
    def bound(self, model: StochasticFunction, guide: StochasticFunction, x: Tensor) -> Tensor:
        """Return the bound ``(B,)`` of each datum, in nats. Pyro's parameter store stays as it is."""
        with failing_on("x", x):
            return self.estimate(isolated(model), isolated(guide), x).bound

    def differentiable_loss(
        self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the scaled bound, summed over the batch, as a scalar to call ``backward`` on."""
        return self.estimate(isolated(model), isolated(guide), _data(args, kwargs)).loss

    def loss(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, for ``SVI.evaluate_loss``, in the caller's parameter store."""
        with torch.no_grad():
            return self.estimate(model, guide, _data(args, kwargs)).loss.item()

    def loss_and_grads(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> float:
        """Accumulate the loss's gradients and return its value, for ``SVI.step``, in the caller's parameter store."""
        loss = self.estimate(model, guide, _data(args, kwargs)).loss
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def estimate(self, model: StochasticFunction, guide: StochasticFunction, x: Tensor) -> Estimate:
        """Return the loss and the bounds of one run of the programs, in the caller's parameter store."""
        pair, path = self._trace(model, guide, x)
        log_w = self.log_weights(pair, scaled=True)
        bound = self.reduce(log_w)
        surrogate = self._surrogate(pair, path, log_w, bound) if torch.is_grad_enabled() else bound
        return self._estimate(pair, bound, surrogate)

    def _trace(self, model: StochasticFunction, guide: StochasticFunction, x: Tensor) -> tuple[PairTrace, Path]:
        path = Path(self.max_plate_nesting)
        keeps_score = self.gradient == "reparam" or not torch.is_grad_enabled()
        pair = trace_pair(
            ProgramPair(model, guide, self.max_plate_nesting),
            x,
            self.total_particles,
            route=None if keeps_score and not self._has_two_bounds else path,
            constant_guide=not keeps_score,
        )
        return pair, path

    def _surrogate(self, pair: PairTrace, path: Path, log_w: Tensor, bound: Tensor) -> Tensor:
        """Return minus the surrogate loss ``(B,)``, whose gradient estimates that of the bound."""
        by_score = sites_without_path(pair)
        if self.gradient != "reparam":
            refuse(pair, by_score, self.gradient)
        surrogate = bound
        if self.gradient == "dreg" or self._has_two_bounds:
            for_model = slope(self.reduce, log_w).clamp(min=1e-20)  # avoids a division by zero
            for_guide = slope(self.reduce_for_guide, log_w)
            possible = torch.where(log_w > -math.inf, log_w, 0.0)
            surrogate = (for_model * possible).sum(0)
            if self.gradient == "reparam":
                surrogate = surrogate + ((for_model - for_guide) * pair.log_q(scaled=True)).sum(0)
            if self.gradient == "dreg":
                for_guide = for_guide - weight_of_latents(pair) * curvature(self.reduce_for_guide, log_w)
            path.weights = for_guide / for_model
        if by_score:
            log_q = torch.stack([pair.score(name) for name in by_score]).sum(0)
            surrogate = surrogate + (learning_signal(self.reduce_for_guide, log_w) * log_q).sum(0)
        return surrogate

    @property
    def _has_two_bounds(self) -> bool:
        return type(self).reduce_for_guide is not Objective.reduce_for_guide

    def _estimate(self, pair: PairTrace, bound: Tensor, surrogate: Tensor) -> Estimate:
        true_bound = bound
        if not self.is_true(pair):
            with torch.no_grad():
                true_bound = self.reduce(self.log_weights(pair, scaled=False))
        if surrogate is not bound:
            bound = differentiated(bound, surrogate)
        return Estimate(-(pair.common_scale * bound).sum(), bound, true_bound)

    def _get_trace(
        self, model: StochasticFunction, guide: StochasticFunction, args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        pair, _ = self._trace(model, guide, _data(args, kwargs))
        return pair.model_trace, pair.guide_trace


def _data(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the one argument of the programs, as SVI and Pyro's ELBO pass it on."""
    if len(args) != 1 or kwargs:
        raise TypeError(
            f"x: found {len(args) + len(kwargs)} arguments for the programs, expected one, the data; bind the "
            "others first, as in functools.partial(model, y), or pack them into x"
        )
    return args[0]
