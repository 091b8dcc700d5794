"""The optimiser of a run, from what a user gives for it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import nn

__all__ = ["make_optimizer"]


def make_optimizer(optimizer: Any, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return ``optimizer(parameters, lr=lr)``; fused Adam for ``None``.

    Raises
    ------
    TypeError
        If it makes no torch optimiser, or one whose step asks for a closure.

    Examples
    --------
    >>> make_optimizer(torch.optim.LBFGS, [nn.Parameter(torch.zeros(1))], 0.1)
    Traceback (most recent call last):
    ...
    TypeError: optimizer: found LBFGS, which runs the loss several times a step, expected one that steps by ...
    """
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    expected = "expected a torch optimiser's class, or functools.partial(torch.optim.AdamW, weight_decay=0.01)"
    if isinstance(optimizer, PyroOptim):  # which can be called, on parameters alone
        name = getattr(optimizer.pt_optim_constructor, "__name__", "an optimiser")
        raise TypeError(f"optimizer: found Pyro's {name}, {expected}")
    if not callable(optimizer):
        raise TypeError(f"optimizer: found {type(optimizer).__name__}, {expected}")
    try:
        made = optimizer(parameters, lr=lr)
    except TypeError as error:
        raise TypeError(f"optimizer: found {optimizer!r}, {expected}: {error}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer: found one that makes {type(made).__name__}, {expected}")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"optimizer: found {type(made).__name__}, which runs the loss several times a step, expected one that "
            "steps by the gradients alone, such as torch.optim.Adam"
        )
    return made
