"""The optimiser of a run, its scheduler and its learning rate, from what a user gives for them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.runtime.kinds import Numbers, shown

__all__ = ["make_optimizer", "make_scheduler", "rate_at", "rate_at_start"]


def make_optimizer(optimizer: Any, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return ``optimizer(parameters, lr=lr)``; Adam for ``None``, fused if all parameters are contiguous.

    Torch's fused optimisers step through memory. For a parameter that is not contiguous they take wrong numbers from a
    gradient or a state with other strides, and write between the entries of a view.

    Raises
    ------
    TypeError
        If it makes no torch optimiser, or one whose step asks for a closure.
    ValueError
        If it fails, or is a fused one of parameters that are not contiguous.

    Examples
    --------
    >>> make_optimizer(torch.optim.LBFGS, [nn.Parameter(torch.zeros(1))], 0.1)
    Traceback (most recent call last):
    ...
    TypeError: optimizer: found LBFGS, which runs the loss several times a step, expected one that steps by ...
    """
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=lr, fused=all(p.is_contiguous() for p in parameters))
    if isinstance(optimizer, PyroOptim):  # which can be called, on parameters alone
        name = getattr(optimizer.pt_optim_constructor, "__name__", "optimiser")
        raise TypeError(
            f"optimizer: found Pyro's {name}, expected a torch optimiser's class, such as torch.optim.Adam, or "
            "functools.partial(torch.optim.AdamW, weight_decay=0.01)"
        )
    made = _made("optimizer", optimizer, torch.optim.Optimizer, parameters, lr=lr)
    if any(group.get("fused") and not all(p.is_contiguous() for p in group["params"]) for group in made.param_groups):
        raise ValueError(
            f"optimizer: found a fused {type(made).__name__} of parameters that are not contiguous, which torch steps "
            "wrongly, expected fused=False"
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"optimizer: found {type(made).__name__}, which runs the loss several times a step, expected one that "
            "steps by the gradients alone, such as torch.optim.Adam"
        )
    return made


def make_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """Return ``scheduler(optimizer)``; ``None`` for ``None``.

    Raises
    ------
    TypeError
        If it makes no torch scheduler.
    ValueError
        If it fails.
    """
    return None if scheduler is None else _made("scheduler", scheduler, LRScheduler, optimizer)


def rate_at_start(lr: float | Callable[[float], float], scheduler: Any = None) -> float:
    """Return the learning rate of the first step, from a number or a function of the fraction of training done.

    Raises
    ------
    ValueError
        If the function fails, does not return a positive number, or stands beside a scheduler.
    """
    if not callable(lr):
        return float(lr)
    if scheduler is not None:
        raise ValueError("scheduler: found one beside a function as lr, expected one of the two to set the rate")
    try:
        rate = lr(0.0)
    except Exception as error:  # a function of somebody else's
        found = f"{shown(lr)}, which fails at 0.0 ({type(error).__name__}: {error})"
        raise ValueError(f"lr: found {found}, expected a function from the fraction of training done") from error
    Numbers("a positive number", 0, math.inf, "both").check("lr", rate)
    return float(rate)


def rate_at(lr: Callable[[float], float], fraction: float) -> float:
    """Return the learning rate at a fraction of training, in [0, 1).

    Raises
    ------
    ValueError
        For a negative rate, which would climb, or one that is not finite, which would spoil the weights.
    """
    rate = lr(fraction)
    if not 0 <= rate < math.inf:
        raise ValueError(f"lr: found {rate!r} at {fraction:g} of training, expected a finite number, 0 or more")
    return float(rate)


def _made(name: str, make: Callable[..., Any], kind: type, *arguments: Any, **options: Any) -> Any:
    """Return what an argument that is a function makes, once it is of the kind that it is to make."""
    try:
        made = make(*arguments, **options)
    except Exception as error:  # a function of somebody else's
        found = f"{shown(make)}, which fails ({type(error).__name__}: {error})"
        raise ValueError(f"{name}: found {found}, expected a function that makes a torch {kind.__name__}") from error
    if not isinstance(made, kind):
        raise TypeError(f"{name}: found one that makes a {type(made).__name__}, expected a torch {kind.__name__}")
    return made
