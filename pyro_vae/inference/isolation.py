"""Programs run in a parameter store of their own, so that two modules never share a parameter by its name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_vae.runtime.modules import owners

__all__ = ["OwnParameters", "isolated"]


class OwnParameters(Messenger):
    """Puts a module's parameter into Pyro's store as it is, where Pyro itself would put a contiguous copy.

    No module uses the copy: it has no gradient, and ``SVI`` steps it in place of the parameter. Where the store holds
    one already it stays, since values may have been restored into it; with ``warn``, a warning names it.
    """

    def __init__(self, *, warn: bool = False) -> None:
        super().__init__()
        self.warn = warn

    def _pyro_param(self, msg: Any) -> None:
        name, *init = msg["args"]
        if not init or not isinstance(init[0], nn.Parameter) or init[0].is_contiguous():
            return
        store = pyro.get_param_store()
        if name not in store:
            if msg["kwargs"].get("constraint", constraints.real) is constraints.real:
                store.set_state({"params": {name: init[0]}, "constraints": {name: constraints.real}})
        elif self.warn and dict(store.named_parameters())[name] is not init[0]:
            warnings.warn(
                f"parameter {name!r}: found a contiguous copy in Pyro's parameter store, which SVI steps in place of "
                "the module's own, expected pyro.clear_param_store() before",
                UserWarning,
                stacklevel=2,
            )


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
            OwnParameters(),
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
