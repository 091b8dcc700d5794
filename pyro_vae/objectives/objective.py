r"""A bound on log p(x) as a Pyro loss.

An objective reduces the log weights of K particles to one number a datum, larger is better:

.. math:: \mathrm{bound}(x_b) = r(\log w_{1b}, \dots, \log w_{Kb}), \qquad
          \mathrm{loss} = -s \sum_b \mathrm{bound}(x_b)

The sign changes here and nowhere else. So does the scale: what a subsampling plate or ``poutine.scale`` multiplies the
observed site with, s, is common to the program and multiplies the loss, outside every logarithm. A latent site scaled
otherwise than the observed one has its log p and log q weighed by the ratio; that is KL annealing.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.importance import PairTrace, Program, ProgramError, trace_pair
from pyro_vae.state import isolated

__all__ = ["Objective", "check_reparameterised"]


class Objective(pyro.infer.ELBO):
    """Base of the bounds. A subclass says how K log weights become one bound, in :meth:`reduce`.

    It is a Pyro ELBO: ``SVI(model, guide, optim, loss=objective)`` trains with it, and ``objective(model, guide)`` is a
    module whose forward returns the loss.

    Parameters
    ----------
    num_particles
        K, the number of latents drawn for each datum.
    max_plate_nesting
        How many plates the programs have, the data plate included.

    Raises
    ------
    ValueError
        If ``num_particles`` or ``max_plate_nesting`` is not a positive integer.
    """

    def __init__(self, num_particles: int = 1, *, max_plate_nesting: int = 1) -> None:
        for name, value in (("num_particles", num_particles), ("max_plate_nesting", max_plate_nesting)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: found {value!r}, expected a positive integer")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"

    @abstractmethod
    def reduce(self, log_w: Tensor) -> Tensor:
        """Reduce log weights ``(K, B)`` to the bound ``(B,)``, both in nats."""

    def terms(self, pair: PairTrace) -> dict[str, Tensor]:
        """What each site adds to the log weight, ``(K, B)``."""
        return pair.terms(scaled=True)

    def bound(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        """The bound of each datum of ``x``, ``(B,)``, nats, larger is better; Pyro's parameter store is left alone."""
        return self.loss_and_bound(isolated(model), isolated(guide), x)[1]

    def differentiable_loss(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        """Minus the scaled bound, summed over the batch: a scalar to call ``backward`` on."""
        return self.loss_and_bound(isolated(model), isolated(guide), x)[0]

    def loss(self, model: Program, guide: Program, x: Tensor) -> float:
        """The loss as a number, for ``SVI.evaluate_loss``; in the caller's parameter store, as in Pyro."""
        with torch.no_grad():
            return self.loss_and_bound(model, guide, x)[0].item()

    def loss_and_grads(self, model: Program, guide: Program, x: Tensor) -> float:
        """The loss as a number, its gradients accumulated, for ``SVI.step``; in the caller's parameter store."""
        loss, _ = self.loss_and_bound(model, guide, x)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def loss_and_bound(self, model: Program, guide: Program, x: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar loss and the bound ``(B,)``, from one run of the programs in the caller's parameter store."""
        pair = self._trace(model, guide, x)
        bound = self.reduce(torch.stack(list(self.terms(pair).values())).sum(0))
        return -(pair.scale * bound).sum(), bound

    def _trace(self, model: Program, guide: Program, x: Tensor) -> PairTrace:
        pair = trace_pair(model, guide, x, self.num_particles, max_plate_nesting=self.max_plate_nesting)
        check_reparameterised(pair)
        return pair

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Any, Any]:
        pair = self._trace(model, guide, *args, **kwargs)
        return pair.model_trace, pair.guide_trace


def check_reparameterised(pair: PairTrace) -> None:
    """Raise ``ProgramError`` if the gradient of a latent's draw would be missing from a traced pair's."""
    for name in pair.latents:
        fn = pair.guide_sites[name]["fn"]
        if not fn.has_rsample and torch.is_grad_enabled() and pair.log_prob(pair.guide_sites[name]).requires_grad:
            raise ProgramError(
                f"site {name!r}: found a latent that cannot be reparameterised ({fn}) in a guide with gradients, "
                "expected one with rsample, since the gradient through its draw would be silently zero; train it with "
                "pyro.infer.TraceGraph_ELBO or TraceEnum_ELBO"
            )
