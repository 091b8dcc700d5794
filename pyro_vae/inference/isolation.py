"""Programs run in a parameter store of their own, so that two modules never share a parameter by its name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import pyro
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.errors import ProgramError
from pyro_vae.runtime.modules import owners

__all__ = ["OwnParameters", "StoreState", "isolated", "kept_in_store", "refusing_others"]

StoreState = dict[str, dict[str, Any]]  # unconstrained values and constraints by name, as Pyro's store has them
_known: ContextVar[frozenset[int] | None] = ContextVar("known", default=None)  # ids of the parameters of a run


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


def isolated(program: Callable[..., Any], *, frozen: bool = False, keeps: bool = False) -> Callable[..., Any]:
    """Return ``program`` run in a parameter store of its own, so that nothing is left in the caller's.

    Pyro names a parameter by its attribute path alone: two modules that both have a ``.net`` meet in the one store, and
    the second silently runs with the first one's weights. A module owns its parameters, so it needs no store. What a
    program declares with a bare ``pyro.param("name", tensor)`` lives in the store and nowhere else; those values are
    passed through.

    ``frozen`` silences Pyro's warning about parameters without gradients, and so does a module that has some. With
    ``keeps``, what the program declares by a bare ``pyro.param`` for the first time is left in the caller's store.
    """
    return functools.partial(_run_isolated, program, frozen, keeps)  # which shows what it wraps


def _run_isolated(program: Callable[..., Any], frozen: bool, keeps: bool, *args: Any, **kwargs: Any) -> Any:
    parameters = [parameter for owner in owners(program) for parameter in owner.parameters()]
    frozen = frozen or not all(parameter.requires_grad for parameter in parameters)
    as_they_are = all(parameter.is_contiguous() for parameter in parameters)
    store = pyro.get_param_store()
    names, known = list(store), _known.get()
    state: Any = kept_in_store()
    if known is not None:  # a stranger's, of which a program may have its own: that is found below
        state = {
            kind: {n: values[n] for n, p in state["params"].items() if id(p) in known} for kind, values in state.items()
        }
    try:
        with (
            store.scope(state),
            _without_warning() if frozen else nullcontext(),
            nullcontext() if as_they_are else OwnParameters(),
        ):
            result = program(*args, **kwargs)
            if known is not None:
                _refuse_others(store.named_parameters(), known)
            return result
    finally:
        if keeps:
            new = [n for n, value in state["params"].items() if n not in names and not isinstance(value, nn.Parameter)]
            kept: Any = {kind: {name: values[name] for name in new} for kind, values in state.items()}
            store.set_state(kept)
        for name in names:
            store[name]  # scope() takes the mark off each parameter by which SVI knows it; reading puts it back


def kept_in_store() -> StoreState:
    """Return what bare ``pyro.param`` statements keep in the caller's store: no parameter of a module."""
    store = pyro.get_param_store()
    state = store.get_state()
    for name in state["params"]:
        store[name]  # puts the mark back, see above
    loose = {name: value for name, value in state["params"].items() if not isinstance(value, nn.Parameter)}
    return {"params": loose, "constraints": {name: state["constraints"][name] for name in loose}}


@contextmanager
def refusing_others(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let isolated programs raise ``ProgramError``, within a block, for a parameter that is none of ``tensors``.

    One that a program declares for the first time while it is trained would begin anew at every step.
    """
    token = _known.set(frozenset(map(id, tensors)))
    try:
        yield
    finally:
        _known.reset(token)


def _refuse_others(params: Iterable[tuple[str, Tensor]], known: frozenset[int]) -> None:
    for name, value in params:
        if value.requires_grad and id(value) not in known:
            raise ProgramError(
                f"parameter {name.replace('$$$', '.')!r}: found for the first time after training had begun, expected "
                "all pyro.param and pyro.module statements to run on the first batch"
            )


@contextmanager
def _without_warning() -> Iterator[None]:
    """Silence Pyro's warning that a parameter without gradients is not in the store, where nothing is to be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was not registered in the param store", category=UserWarning)
        yield
