"""Stochastic functions, Pyro's name for a callable with sample sites, and their latents at the means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import Distribution

from pyro_vae.flows import FlowDistribution
from pyro_vae.runtime.objects import Callables

__all__ = ["AtMeans", "FromPrior", "ProgramWrapper", "StochasticFunction", "is_in_svi_step"]


@dataclass(frozen=True)
class _Programs(Callables):
    """The callables but pairs of programs, which are refused by a message that says how to pass the two."""

    def check(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and callable(getattr(value, "model", None)) and hasattr(value, "guide"):
            is_called = type(value).forward is not nn.Module.forward
            if not is_called or hasattr(value, "recipe"):
                raise TypeError(
                    f"{name}: found {type(value).__name__}, a pair of programs, expected the two one by one, as in "
                    "fit(vae.model, vae.guide, data)"
                )
        super().check(name, value)


StochasticFunction = Annotated[
    Callable[..., Any], _Programs("a program, which is called with data", (type, Distribution))
]


def is_in_svi_step() -> bool:
    """Return whether this is called from ``SVI.step``, which looks in its own parameter store for what to step."""
    return any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK)


class ProgramWrapper(nn.Module):
    """A program with something around it, which subclasses add in their ``forward``.

    No PyroModule, which would rename the parameters of the program that it wraps.
    """

    def __init__(self, program: StochasticFunction) -> None:
        super().__init__()
        self.program = program

    @property
    def __wrapped__(self) -> StochasticFunction:
        return self.program


class AtMeans(Messenger):
    """Let each latent be the mean of its distribution instead of a draw: a guide then encodes.

    The mean of a flow is not known; what becomes of the mean of its noise stands in for it.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            fn = msg["fn"]
            msg["value"], msg["done"] = fn.center if isinstance(fn, FlowDistribution) else fn.mean, True


class FromPrior:
    """A guide that draws the latents of a model from its prior."""

    def __init__(self, model: StochasticFunction) -> None:
        self.__wrapped__ = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.block(hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"]):
            return self.__wrapped__(*args, **kwargs)
