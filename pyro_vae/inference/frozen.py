"""A program run with something of it held: its draws without gradients, its parameters constant, its buffers kept.

The densities of a guide are wanted a second time where the score is to drop out of a gradient: on the same latents,
with the same values of its parameters, and nothing of it moved by being run again.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vae.errors import ProgramError
from pyro_vae.flows.distribution import forget
from pyro_vae.flows.draws import noise_of_draw, remember
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.sites import density
from pyro_vae.runtime.modules import owners

__all__ = [
    "DetachedLatents",
    "Scored",
    "check_runs_again",
    "with_constant_parameters",
    "with_copied_buffers",
    "with_disturbed_parameters",
]


class DetachedLatents(Messenger):
    """Cut the gradient at every draw. To stand outside of the trace that records the draws."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            drawn, msg["value"] = msg["value"], msg["value"].detach()
            remember(msg["fn"], msg["value"], noise_of_draw(msg["fn"], drawn))


class Scored(Messenger):
    """Compute the density of every draw while its program runs, as that of a flow runs networks. To stand outside."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            density(msg)


class _ConstantParams(Messenger):
    """Answer ``pyro.param`` statements with constants; refuse a module's live parameter, which they cannot replace."""

    def _pyro_param(self, msg: Any) -> None:
        name, *init = msg["args"]
        if init and isinstance(init[0], nn.Parameter):
            raise ProgramError(
                f"parameter {name!r}: found in a module that the guide closes over, expected the guide to be that "
                "module, or a method of it, so that its parameters can be held constant; gradient='reparam' needs no "
                "such thing"
            )

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class _Call(nn.Module):
    """A callable as a module, so that ``functional_call`` can swap the parameters of the modules it uses."""

    def __init__(self, program: StochasticFunction) -> None:
        super().__init__()
        self.owners = nn.ModuleList(owners(program))
        self.run = (program,)  # in a tuple: not a child a second time

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run[0](*args, **kwargs)

    def copied_buffers(self) -> dict[str, Tensor]:
        """A copy of every buffer, by name; each module once, for what is swapped twice would not be swapped back."""
        modules = self.named_modules()
        owned = (module.named_buffers(prefix, False, remove_duplicate=False) for prefix, module in modules)
        return {name: buffer.clone() for named in owned for name, buffer in named}


def check_runs_again(program: StochasticFunction) -> None:
    """Raise ``ProgramError`` if a second run would be of another program, dropout being on in training."""
    _refuse_dropout(_Call(program), only_now=False)


def _refuse_dropout(call: _Call, only_now: bool) -> None:
    """With ``only_now``, dropout that is off (in eval mode) passes."""
    for name, module in call.owners.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 and (module.training or not only_now):
            raise ProgramError(
                f"module {name.partition('.')[2]!r}: found {module} in the guide, which is run twice and would drop "
                "other units the second time; expected gradient='reparam', or no dropout"
            )


def with_constant_parameters(program: StochasticFunction) -> StochasticFunction:
    """Return ``program`` run on the values of its parameters: gradients pass through what it is given, not to them.

    Buffers that it updates (batch normalisation) stay as they are; for all else it is the program.

    Raises
    ------
    ProgramError
        If dropout is on, since a second run would not be of the same program; when run, if a parameter belongs to a
        module that a function closes over.
    """
    call = _Call(program)
    _refuse_dropout(call, only_now=True)
    tensors = call.copied_buffers()
    for prefix, module in call.named_modules():
        tensors |= {name: p.detach() for name, p in module.named_parameters(prefix, False, remove_duplicate=False)}

    def run(*args: Any, **kwargs: Any) -> Any:
        with poutine.block(hide_types=["param"]), _ConstantParams():  # SVI steps every parameter that it hears of
            return functional_call(call, tensors, args, kwargs, tie_weights=False)

    return isolated(run, frozen=True)


def with_disturbed_parameters(program: StochasticFunction) -> StochasticFunction:
    """Return ``program`` run on other values of its parameters, and of the statistics of batch normalisation.

    They differ from its own by noise of about their size, so that a network whose last layer begins at zero, or one
    that has no statistics yet, shows what it does.
    """
    call = _Call(program)
    tensors = call.copied_buffers()
    for prefix, module in call.named_modules():
        statistics = {f"{prefix}.{name}".lstrip("."): name for name in ("running_mean", "running_var")}
        tensors |= {
            path: _disturbed(tensors[path], name == "running_var")
            for path, name in statistics.items()
            if isinstance(tensors.get(path), Tensor)
        }
        for name, parameter in module.named_parameters(prefix, False, remove_duplicate=False):
            tensors[name] = _disturbed(parameter.detach(), False)

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return functional_call(call, tensors, args, kwargs, tie_weights=False)
        finally:
            for module in call.owners.modules():  # Pyro's transforms remember what became of their last arguments
                forget(module)

    return run


def _disturbed(values: Tensor, stays_positive: bool) -> Tensor:
    """Return values with noise of half their spread, and a little more."""
    if not values.is_floating_point():
        return values
    noise = torch.randn_like(values)
    if stays_positive:
        return values * (0.3 * noise).exp()
    spread = values.std() if values.numel() > 1 else values.abs().sum()
    return values + (0.5 * spread + 0.05) * noise


def with_copied_buffers(program: StochasticFunction) -> StochasticFunction:
    """Return ``program`` run on copies of its buffers: what batch normalisation learns from the run is forgotten."""
    call = _Call(program)
    buffers = call.copied_buffers()
    return lambda *args, **kwargs: functional_call(call, buffers, args, kwargs, tie_weights=False)
