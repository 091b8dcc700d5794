"""Programs run in a parameter store of their own, so that two modules never share a parameter by its name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
from torch import nn

from pyro_vae.runtime.modules import owners

__all__ = ["isolated"]


def isolated(program: Callable[..., Any], *, frozen: bool = False) -> Callable[..., Any]:
    """Return ``program`` run in a parameter store of its own, so that nothing is left in the caller's.

    Pyro names a parameter by its attribute path alone: two modules that both have a ``.net`` meet in the one store, and
    the second silently runs with the first one's weights. A module owns its parameters, so it needs no store. What a
    program declares with a bare ``pyro.param("name", tensor)`` lives in the store and nowhere else; those values are
    passed through.

    ``frozen`` silences Pyro's warning about parameters without gradients, and so does a module that has some.
    """
    return functools.partial(_run_isolated, program, frozen)  # which shows what it wraps


def _run_isolated(program: Callable[..., Any], frozen: bool, *args: Any, **kwargs: Any) -> Any:
    frozen = frozen or not all(p.requires_grad for owner in owners(program) for p in owner.parameters())
    store = pyro.get_param_store()
    state = store.get_state()
    loose = {name: value for name, value in state["params"].items() if not isinstance(value, nn.Parameter)}
    constraints = {name: state["constraints"][name] for name in loose}
    try:
        with (
            store.scope({"params": loose, "constraints": constraints}),
            _without_warning() if frozen else nullcontext(),
        ):
            return program(*args, **kwargs)
    finally:
        for name in state["params"]:
            store[name]  # scope() takes the mark off each parameter by which SVI knows it; reading puts it back


@contextmanager
def _without_warning() -> Iterator[None]:
    """Silence Pyro's warning that a parameter without gradients is not in the store, where nothing is to be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was not registered in the param store", category=UserWarning)
        yield
