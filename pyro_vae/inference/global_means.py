r"""Programs with their global latents held at the guide's means.

Given the global latents W, the data are independent, and each has a likelihood of its own,

.. math:: \log p(x_b | W = \mathbb{E}_q[W]) = \log \int p(x_b|z, W)\, p(z|W)\, dz .

It is that of the model at one value of W. It leaves out how uncertain W is, and is no marginal likelihood.
"""

from __future__ import annotations

import warnings
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_vae.data.batch import as_batch
from pyro_vae.errors import ProgramError
from pyro_vae.flows import FlowDistribution
from pyro_vae.inference.handlers import ProgramWrapper, StochasticFunction
from pyro_vae.inference.plates import UNSIZED, may_hold_data, plates_of
from pyro_vae.runtime.arguments import checked

__all__ = ["AtGlobalMeans", "at_global_means", "refuse_global_means"]


class _Hold(Messenger):
    """Hold the sites outside of the data plate at their means, and let them add nothing to the weights."""

    def __init__(self, num_data: int, plates: frozenset[str], is_first: bool) -> None:
        super().__init__()
        self.num_data, self.plates, self.is_first = num_data, plates, is_first

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or any(self._may_hold_data(frame, msg["fn"]) for frame in plates_of(msg)):
            return
        msg["infer"]["_deterministic"] = True  # as Pyro marks what carries no probability
        if not msg["is_observed"]:
            if self.is_first and isinstance(msg["fn"], dist.Delta) and torch.as_tensor(msg["fn"].log_density).any():
                warnings.warn(
                    f"site {msg['name']!r}: found a latent that its guide makes of another one by a curved map, as an "
                    "AutoGuide does where the support has bounds; it is held at the image of the other's mean, often "
                    "its median, and not at its own mean. A guide that draws it from a distribution with a mean, such "
                    "as a LogNormal, is held there",
                    UserWarning,
                    stacklevel=2,
                )
            msg["value"], msg["done"] = _mean(msg), True

    def _may_hold_data(self, frame: Any, fn: Any) -> bool:
        if "data" in self.plates:
            return frame.name == "data"
        if frame.size == UNSIZED and frame.name != "data":  # an EasyGuide opens the model's plates by name alone
            return frame.dim == -1 and fn.batch_shape[-1:] == (self.num_data,)
        return may_hold_data(frame, self.num_data)


def _mean(msg: Any) -> Any:
    fn = msg["fn"]
    try:
        return fn.center if isinstance(fn, FlowDistribution) else fn.mean
    except NotImplementedError as error:
        raise ProgramError(
            f"site {msg['name']!r}: found {fn}, whose mean is not known, expected a distribution with a mean to hold "
            "a global latent at"
        ) from error


@torch.no_grad()
def _plates_in(program: StochasticFunction, *args: Any, **kwargs: Any) -> frozenset[str]:
    """Return the names of the plates that a program opens, by a run that nothing around it sees."""
    with poutine.block():
        trace = poutine.trace(program).get_trace(*args, **kwargs)
    return frozenset(frame.name for node in trace.nodes.values() for frame in node.get("cond_indep_stack", ()))


class AtGlobalMeans(ProgramWrapper):
    """A program with its global latents at their means; made by :func:`at_global_means`."""

    def __init__(self, program: StochasticFunction, other: StochasticFunction) -> None:
        super().__init__(program)
        self._both = (program, other)  # in a tuple: not a part of the program
        self.plates: frozenset[str] = frozenset()  # the names of all, once they are known

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        is_first = not self.plates
        if is_first:
            self.plates = frozenset().union(*(_plates_in(program, *args, **kwargs) for program in self._both))
        with _Hold(len(as_batch(args, kwargs)), self.plates, is_first):
            return self.program(*args, **kwargs)


@checked
def at_global_means(model: StochasticFunction, guide: StochasticFunction) -> tuple[AtGlobalMeans, AtGlobalMeans]:
    r"""Hold the global latents of a pair, those outside of the data plate, at the guide's means.

    .. math:: p(x_b, z_b | W = \mathbb{E}_q[W]), \qquad q(z_b | x_b, W = \mathbb{E}_q[W])

    All that takes a pair takes this one; :func:`pyro_vae.log_likelihood` then estimates the conditional likelihood
    :math:`\log p(x_b | W = \mathbb{E}_q[W])` of each datum. An AutoGuide makes a latent whose support has bounds of an
    unbounded one, at whose mean it is held: a positive one at its median. A warning says so.

    Parameters
    ----------
    model, guide
        A pair of programs, with a plate of the data.

    Returns
    -------
    tuple
        The pair with its global latents held, in which they add nothing to the weights.

    Raises
    ------
    ProgramError
        When run, if the mean of a global latent is not known.

    Examples
    --------
    >>> import pyro, torch, pyro_vae
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
    >>> def guide(x):
    ...     pyro.sample("loc", dist.Normal(0.5, 0.1))
    >>> pyro_vae.log_likelihood(*at_global_means(model, guide), torch.tensor([0.5]), num_particles=1).values
    tensor([-0.9189], dtype=torch.float64)
    """
    return AtGlobalMeans(model, guide), AtGlobalMeans(guide, model)


def refuse_global_means(model: StochasticFunction, doing: str) -> None:
    """Raise ``ProgramError`` for a model whose global latents are held at the guide's means, run without its guide."""
    program: Any = model
    while program is not None:
        if isinstance(program, AtGlobalMeans):
            raise ProgramError(
                f"model: found global latents that are held at the means of its guide, expected another model, to "
                f"{doing}, which runs it alone"
            )
        program = getattr(program, "__wrapped__", None)
