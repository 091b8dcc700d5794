r"""A bound on log p(x) as a Pyro loss.

An objective reduces the log weights of K particles to one number a datum, larger is better:

.. math:: \mathrm{bound}(x_b) = r(\log w_{1b}, \dots, \log w_{Kb}), \qquad
          \mathrm{loss} = -s \sum_b \mathrm{bound}(x_b)

The sign changes here and nowhere else. So does the scale: what a subsampling plate or ``poutine.scale`` multiplies the
observed site with, s, is common to the program and multiplies the loss, outside every logarithm. A latent site scaled
otherwise than the observed one has its log p and log q weighed by the ratio; that is KL annealing. The *true* bound is
the one without it, and is what gets reported.
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
    """What a run of a pair gives: the scalar ``loss`` and two bounds ``(B,)`` in nats, as weighed and the true one."""

    loss: Tensor
    bound: Tensor
    true_bound: Tensor


class Objective(pyro.infer.ELBO):
    """Base of the bounds. A subclass says how K log weights become one bound, in :meth:`reduce`.

    It is a Pyro ELBO: ``SVI(model, guide, optim, loss=objective)`` trains with it, and ``objective(model, guide)`` is a
    module whose forward returns the loss.

    Parameters
    ----------
    num_particles
        K, the number of latents drawn for each datum.
    gradient
        How the guide's gradient is estimated, see :mod:`pyro_vae.objectives.gradients`: ``"reparam"`` by the path
        through the draws and the score; ``"stl"`` by the path alone (unbiased for the ELBO only); ``"dreg"`` by the
        path alone, weighed so as to be unbiased for every smooth bound, with weights that take K² B numbers. The value
        of the bound is the same. Latents that cannot be reparameterised are learnt by their score, under ``"reparam"``.
    max_plate_nesting
        How many plates the programs have, the data plate included.

    Raises
    ------
    ValueError
        If ``num_particles`` or ``max_plate_nesting`` is not a positive integer, or for an unknown ``gradient``.
    ProgramError
        When run: if the programs do not form a pair, or a latent has no gradient of the kind that is asked for.
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
        """What is particular to this bound, by argument name; for its ``repr``."""
        return {}

    @property
    def total_particles(self) -> int:
        """How many latents are drawn for each datum in all."""
        return self.num_particles

    @abstractmethod
    def reduce(self, log_w: Tensor) -> Tensor:
        """Reduce log weights ``(K, B)`` to the bound ``(B,)``, both in nats; each datum by itself."""

    def reduce_for_guide(self, log_w: Tensor) -> Tensor:
        """The bound that the guide is trained on, where it is another than the model's."""
        return self.reduce(log_w)

    def terms(self, pair: PairTrace, scaled: bool) -> dict[str, Tensor]:
        """What each site adds to the log weight, ``(K, B)``; without ``scaled``, to that of the true bound."""
        return pair.terms(scaled)

    def log_weights(self, pair: PairTrace, scaled: bool) -> Tensor:
        """The sum of the terms: the log weights that the bound is a reduction of, ``(K, B)``."""
        return torch.stack(list(self.terms(pair, scaled).values())).sum(0)

    def is_true(self, pair: PairTrace) -> bool:
        """Whether the bound is the true one, nothing in it being weighed otherwise."""
        return not pair.is_annealed

    @checked
    def bound(self, model: StochasticFunction, guide: StochasticFunction, x: Tensor) -> Tensor:
        """The bound of each datum of ``x``, ``(B,)``, nats, larger is better; Pyro's parameter store is left alone."""
        with failing_on("x", x):
            return self.estimate(isolated(model), isolated(guide), x).bound

    def differentiable_loss(
        self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the scaled bound, summed over the batch: a scalar to call ``backward`` on."""
        return self.estimate(isolated(model), isolated(guide), _data(args, kwargs)).loss

    def loss(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, for ``SVI.evaluate_loss``; in the caller's parameter store, as in Pyro."""
        with torch.no_grad():
            return self.estimate(model, guide, _data(args, kwargs)).loss.item()

    def loss_and_grads(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, its gradients accumulated, for ``SVI.step``; in the caller's parameter store."""
        loss = self.estimate(model, guide, _data(args, kwargs)).loss
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def estimate(self, model: StochasticFunction, guide: StochasticFunction, x: Tensor) -> Estimate:
        """The loss and the bounds from one run of the programs, in the caller's parameter store."""
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
        """Something whose gradient is the estimate of the bound's; see :mod:`pyro_vae.objectives.gradients`."""
        by_score = sites_without_path(pair)
        if self.gradient != "reparam":
            refuse(pair, by_score, self.gradient)
        surrogate = bound
        if self.gradient == "dreg" or self._has_two_bounds:
            for_model = slope(self.reduce, log_w).clamp(min=1e-20)  # a divisor; so much more changes no gradient
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
    """The one argument of the programs, as SVI and Pyro's ELBO pass it on."""
    if len(args) != 1 or kwargs:
        raise TypeError(
            f"x: found {len(args) + len(kwargs)} arguments for the programs, expected one, the data; give them the "
            "others beforehand, as in functools.partial(model, y), or as parts of x"
        )
    return args[0]
