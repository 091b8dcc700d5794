r"""A bound on log p(x) as a Pyro loss.

An objective reduces the log weights of K particles to one number a datum, larger is better:

.. math:: \mathrm{bound}(x_b) = r(\log w_{1b}, \dots, \log w_{Kb}), \qquad
          \mathrm{loss} = -s \sum_b \mathrm{bound}(x_b)

The sign changes here and nowhere else. The scale s is that of the observed site, from a subsampling plate or
``poutine.scale``. It multiplies the loss, outside every logarithm. A latent site with another scale has its log p and
log q multiplied by the ratio of the two scales, which is KL annealing. The *true* bound is the one without annealing,
and is the one reported.

Latents outside of the data plate enter as :mod:`pyro_vae.objectives.global_latents` says.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import pyro
import torch
from torch import Tensor

from pyro_vae.data.batch import Batch, as_batch
from pyro_vae.errors import failing_on
from pyro_vae.inference.annealing import is_annealed
from pyro_vae.inference.global_terms import global_score, global_terms
from pyro_vae.inference.handlers import StochasticFunction, is_in_svi_step
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.isolation import OwnParameters, isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import VectorizeParticles
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.estimate import Estimate
from pyro_vae.objectives.global_latents import global_share, global_surrogate
from pyro_vae.objectives.gradients import Gradient, Path, differentiated, refuse, sites_without_path
from pyro_vae.objectives.reductions import Reduction
from pyro_vae.objectives.scores import score_of_each_datum
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.objects import Instances

__all__ = ["AnyObjective", "Objective"]


AnyObjective = Annotated[
    pyro.infer.ELBO, Instances("one such as ELBO() or IWAE(5), or a Pyro ELBO", pyro.infer.ELBO, by_value=True)
]


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
        the path alone, weighted to be unbiased for every smooth bound. The value of the bound is the same. Latents that
        cannot be reparameterised are trained by their score, under ``"reparam"``.
    max_plate_nesting
        The number of plates in the programs at least, the data plate included.
    vectorize_particles
        How several particles are drawn, see :func:`pyro_vae.log_weights`.

    Raises
    ------
    ValueError
        If ``num_particles`` or ``max_plate_nesting`` is not a positive integer, or ``gradient`` is unknown.
    ProgramError
        When run: if the programs do not form a pair, or a latent does not support ``gradient``.
    """

    is_linear = False  # in the log weights of the particles

    @checked
    def __init__(
        self,
        num_particles: PositiveInteger = 1,
        *,
        gradient: Gradient = "reparam",
        max_plate_nesting: PositiveInteger = 1,
        vectorize_particles: VectorizeParticles = "auto",
    ) -> None:
        super().__init__(num_particles, max_plate_nesting)
        self.gradient, self.vectorize_particles = gradient, vectorize_particles

    def __repr__(self) -> str:
        shown = {**self.arguments(), "num_particles": self.num_particles}
        for name, default in (("gradient", "reparam"), ("vectorize_particles", "auto")):
            shown |= {} if getattr(self, name) == default else {name: getattr(self, name)}
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

    def global_terms(self, pair: PairTrace, scaled: bool) -> dict[str, Tensor]:
        """Return the terms of the sites outside of the data plate, ``(K,)``, or ``(1,)`` if particles share them."""
        return global_terms(pair, scaled)

    def log_weights(self, pair: PairTrace, scaled: bool) -> Tensor:
        """Return the log weights ``(K, B)`` that the bound reduces, the sum of the terms."""
        return torch.stack(list(self.terms(pair, scaled).values())).sum(0)

    def reduced(self, pair: PairTrace, scaled: bool) -> Tensor:
        """Return the bounds ``(B,)`` of a run, without the share of global latents."""
        return self.reduce(self.log_weights(pair, scaled))

    def scores(self, pair: PairTrace, names: list[str], guide_bound: Reduction, log_w: Tensor) -> Tensor:
        """Return the surrogate ``(B,)`` of latents without a path, whose gradient is by their score."""
        return score_of_each_datum(pair, names, guide_bound, log_w)

    def is_true(self, pair: PairTrace) -> bool:
        """Return whether the bound is the true one, without annealing or another change of the KL."""
        return not is_annealed(pair)

    def programs_to_check(self, programs: ProgramPair) -> ProgramPair:
        """Return the pair that is run by itself to check it and its data, by default the one that is trained."""
        return programs

    @checked
    def bound(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> Tensor:
        """Return the bound ``(B,)`` of each datum, in nats. Pyro's parameter store stays as it is."""
        x = as_batch(args, kwargs)
        with failing_on("x", x):
            return self.estimate(isolated(model), isolated(guide), x).bound

    def differentiable_loss(
        self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the scaled bound, summed over the batch, as a scalar to call ``backward`` on."""
        if not is_in_svi_step():
            return self.estimate(isolated(model, keeps=True), isolated(guide, keeps=True), *args, **kwargs).loss
        with OwnParameters(warn=True):
            return self.estimate(model, guide, *args, **kwargs).loss

    def loss(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, for ``SVI.evaluate_loss``, in the caller's parameter store."""
        with torch.no_grad(), OwnParameters(warn=True):
            return self.estimate(model, guide, *args, **kwargs).loss.item()

    def loss_and_grads(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> float:
        """Accumulate the loss's gradients and return its value, for ``SVI.step``, in the caller's parameter store."""
        with OwnParameters(warn=True):
            loss = self.estimate(model, guide, *args, **kwargs).loss
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def estimate(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> Estimate:
        """Return the loss and the bounds of one run of the programs, in the caller's parameter store."""
        pair, path = self._trace(model, guide, as_batch(args, kwargs))
        log_w = self.log_weights(pair, scaled=True)
        bound = self.reduce(log_w)
        surrogate = self._surrogate(pair, path, log_w, bound) if torch.is_grad_enabled() else bound
        return self._estimate(pair, bound, surrogate)

    def pair_of(self, model: StochasticFunction, guide: StochasticFunction) -> ProgramPair:
        """Return two programs as a pair that runs as this objective says."""
        return ProgramPair(model, guide, self.max_plate_nesting, self.vectorize_particles)

    def _trace(self, model: StochasticFunction, guide: StochasticFunction, x: Batch) -> tuple[PairTrace, Path]:
        path = Path()
        keeps_score = self.gradient == "reparam" or not torch.is_grad_enabled()
        pair = trace_pair(
            self.pair_of(model, guide),
            x,
            self.total_particles,
            route=None if keeps_score and not self._has_two_bounds else path,
            constant_guide=not keeps_score,
            shares_globals=not self.is_linear,
            each_datum=False,
        )
        path.set_runs(pair)
        return pair, path

    def _surrogate(self, pair: PairTrace, path: Path, log_w: Tensor, bound: Tensor) -> Tensor:
        """Return minus the surrogate loss ``(B,)``, whose gradient estimates that of the bound."""
        by_score = sites_without_path(pair)
        weighs_the_path = self._has_two_bounds or (self.gradient == "dreg" and not self.is_linear)
        refuse(pair, by_score, self.gradient, repr(self), weighs_the_path)
        surrogate = bound
        guide_bound = self.reduce_for_guide if self._has_two_bounds else self.reduce  # which may have closed forms
        if self.gradient == "dreg" or self._has_two_bounds:
            surrogate = path.surrogate(pair, self.reduce, guide_bound, log_w, self.gradient)
        if local := [name for name in by_score if name not in pair.global_sites]:
            surrogate = surrogate + self.scores(pair, local, guide_bound, log_w)
        if len(local) < len(by_score):
            log_q = torch.stack([global_score(pair, name) for name in by_score if name not in local]).sum(0)
            terms = self.global_terms(pair, scaled=True)
            surrogate = surrogate + global_surrogate(pair, terms, log_w, bound, log_q)
        return surrogate

    @property
    def _has_two_bounds(self) -> bool:
        return type(self).reduce_for_guide is not Objective.reduce_for_guide

    def _estimate(self, pair: PairTrace, bound: Tensor, surrogate: Tensor) -> Estimate:
        share = global_share(pair, self.global_terms(pair, scaled=True))
        with torch.no_grad():
            true_share = global_share(pair, self.global_terms(pair, scaled=False))
        if share is not None:
            surrogate = share + (bound if surrogate is bound else surrogate)
        true_bound = bound
        if not self.is_true(pair):
            with torch.no_grad():
                true_bound = self.reduced(pair, scaled=False)
        bound, true_bound = (b if g is None else b + g for b, g in ((bound, share), (true_bound, true_share)))
        if surrogate is not bound:
            bound = differentiated(bound, surrogate)
        estimate = Estimate(-(pair.common_scale * bound).sum(), bound, true_bound)
        estimate.global_term, by_datum = true_share, pair.length and pair.plate.dim is not None
        estimate.num_stood_for = pair.length / pair.num_data if by_datum and pair.length != pair.num_data else 1
        return estimate

    def _get_trace(
        self, model: StochasticFunction, guide: StochasticFunction, args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        pair, _ = self._trace(model, guide, as_batch(args, kwargs))
        return pair.model_trace, pair.guide_trace
