r"""A guide whose distributions are moved for each datum.

The parameters λ of each latent's distribution move by an offset where they are unconstrained (the logarithm of a scale,
say), and in the family ``"flow"`` its draws then move by couplings c,

.. math:: z_b = c_b(u), \qquad u \sim q_{\lambda_b + \delta_b}(u|x_b) .
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to

from pyro_vae.data.batch import Batch, as_batch, call
from pyro_vae.errors import ProgramError
from pyro_vae.evaluation.couplings import Couple, Coupling
from pyro_vae.flows import FlowDistribution
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import isolated

__all__ = ["Family", "RefinedGuide"]

Family = Literal["own", "flow"]


class RefinedGuide:
    """A guide whose distributions are moved for each of the data it was made for, and takes only these.

    They are moved by offsets of their parameters and, in the family ``"flow"``, by couplings.
    """

    def __init__(self, guide: StochasticFunction, x: Batch, family: Family = "own") -> None:
        self.__wrapped__ = guide
        self._offsets: dict[str, dict[str, Tensor]] = {}
        self._couplings: dict[str, list[Coupling]] = {}
        self._family = family
        self._x = x
        with torch.no_grad():
            call(isolated(self), x)  # its sites tell what there is to move

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = as_batch(args, kwargs)
        if x.shape != self._x.shape:
            raise ValueError(f"x: found the shape {tuple(x.shape)}, expected the data it was made for, {self._x.shape}")
        flow = Couple(self._couplings) if self._family == "flow" else nullcontext()
        with flow, _Move(self._offsets):
            return call(self.__wrapped__, x)

    def offsets(self) -> list[Tensor]:
        """All the offsets, and what the couplings are made of: leaves with a gradient."""
        offsets = [offset for named in self._offsets.values() for offset in named.values()]
        return offsets + [each for flow in self._couplings.values() for one in flow for each in one.leaves]


class _Move(Messenger):
    """Move the distribution of each latent; at first sight of one, by zeros, which are kept."""

    def __init__(self, offsets: dict[str, dict[str, Tensor]]) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        fn = msg["fn"]
        if not fn.has_rsample:
            raise ProgramError(f"site {msg['name']!r}: found {fn}, expected a distribution with rsample, to be refined")
        try:
            msg["fn"] = _moved(fn, self.offsets.setdefault(msg["name"], {}))
        except NotImplementedError as error:  # also torch's for a constraint that it cannot lift
            raise ProgramError(
                f"site {msg['name']!r}: found {fn}, expected a distribution whose parameters can be moved: {error}"
            ) from error


def _moved(fn: Any, offsets: dict[str, Tensor]) -> Any:
    if isinstance(fn, FlowDistribution):
        return FlowDistribution(_moved(fn.base, offsets), fn.transform)
    if isinstance(fn, torch.distributions.Independent):
        return _moved(fn.base_dist, offsets).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return _moved(fn.base_dist, offsets).mask(fn._mask)
    parameters = {}
    for name, constraint in fn.arg_constraints.items():
        if name in vars(fn):  # of several ways to give the same, the one that was used
            transform, value = transform_to(constraint), vars(fn)[name]
            unconstrained = transform.inv(value)
            if name not in offsets:
                offsets[name] = torch.zeros_like(unconstrained).requires_grad_()
            parameters[name] = transform(unconstrained + offsets[name])
    if not parameters:
        if isinstance(fn, torch.distributions.TransformedDistribution):  # of a LogNormal, the Normal
            return dist.TransformedDistribution(_moved(fn.base_dist, offsets), fn.transforms)
        raise NotImplementedError("it has none")
    return type(fn)(**parameters)
