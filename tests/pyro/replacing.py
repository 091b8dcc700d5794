"""A pytest plugin that puts this package's bounds in the place of Pyro's.

It is loaded by ``-p replacing`` before any test module, so that ``from pyro.infer import Trace_ELBO`` imports the class
of that name below: a bound of this package that takes Pyro's arguments. What such a module compares, ``Elbo is
Trace_ELBO`` or ``isinstance(elbo, ELBO)``, keeps its meaning.

Tests that use none of the replaced ELBOs are deselected, by this rule:

1. A test with an ELBO as a parameter (a class of ``pyro.infer``, or a function of the test module) uses that one.
2. Any other test uses those that its code names, or that the functions of its module or the methods of its class name
   which it calls.
"""

from __future__ import annotations

import inspect
import math
import warnings
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pyro
import pyro.infer
import pytest
import torch
from pyro import poutine

import pyro_vae
from pyro_vae.objectives.objective import Objective

WITHOUT_MEANING = {"strict_enumeration_warning", "model_has_params", "num_sleep_particles"}


class Replacement(Objective):
    """A bound with Pyro's arguments, in front of the bound itself in the order of base classes.

    Pyro counts the plates of programs itself where it is not told how many there are. So does this class, by a run that
    leaves the generator as it was; 1 is the least, as the data plate counts.
    """

    def __init__(self, *args: Any, max_plate_nesting: float = math.inf, vectorize_particles: bool = False, **rest: Any):
        given = {name: value for name, value in rest.items() if name not in WITHOUT_MEANING}
        if "vectorize_particles" in inspect.signature(super().__init__).parameters:
            given["vectorize_particles"] = vectorize_particles
        self._is_counted = max_plate_nesting < math.inf
        super().__init__(*args, max_plate_nesting=max(1, max_plate_nesting) if self._is_counted else 1, **given)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        self._count(model, guide, args, kwargs)
        return super().loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        self._count(model, guide, args, kwargs)
        return super().loss_and_grads(model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._count(model, guide, args, kwargs)
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def _count(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        if not self._is_counted:
            self.max_plate_nesting = max(1, num_plates(model, guide, args, kwargs))
            self._is_counted = True


class Trace_ELBO(Replacement, pyro_vae.ELBO):
    """``ELBO``."""


class TraceGraph_ELBO(Replacement, pyro_vae.ELBO):
    """``ELBO``."""


class TraceMeanField_ELBO(Replacement, pyro_vae.ELBO):
    """``ELBO(kl="analytic")``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, kl="analytic", **kwargs)


class RenyiELBO(Replacement, pyro_vae.RenyiBound):
    """``RenyiBound``."""

    def __init__(self, alpha: float = 0.0, num_particles: int = 2, **kwargs: Any) -> None:
        super().__init__(alpha, num_particles, **kwargs)


class ReweightedWakeSleep(Replacement, pyro_vae.ReweightedWakeSleep):
    """``ReweightedWakeSleep``, which has the wake phase or the sleep phase alone, or the sum of both."""

    def __init__(self, num_particles: int = 2, insomnia: float = 1.0, vectorize_particles: bool = True, **kwargs: Any):
        phase = {1.0: "wake", 0.0: "sleep"}[insomnia]
        super().__init__(num_particles, guide_phase=phase, vectorize_particles=vectorize_particles, **kwargs)


REPLACEMENTS = (Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, RenyiELBO, ReweightedWakeSleep)


def num_plates(model: Any, guide: Any, args: Any, kwargs: Any) -> int:
    """Return how many dimensions the plates of two programs take, or 0 if these do not run."""
    try:
        with torch.random.fork_rng(devices=[]), poutine.block(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    except Exception:  # the bound meets it too, and what it says is what counts
        return 0
    sites = [*guide_trace.nodes.values(), *model_trace.nodes.values()]
    frames = [frame for site in sites for frame in site.get("cond_indep_stack", ())]
    return max((-frame.dim for frame in frames if frame.vectorized), default=0)


def _names(code: CodeType) -> set[str]:
    """Return the globals and attributes that a function and those inside it name."""
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*inner)


def elbos_of(function: FunctionType, module: ModuleType, cls: type | None, elbos: tuple[type, ...]) -> set[type]:
    """Return which of the ELBOs a function names, or a function of its module or method of its class that it calls."""
    found, waiting, seen = set(), [function], set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        for name in _names(function.__code__):
            each = getattr(module, name, getattr(cls, name, None))
            if isinstance(each, type) and each in elbos:
                found.add(each)
            elif inspect.isfunction(each) and each.__module__ == module.__name__ and each not in seen:
                waiting.append(each)
    return found


def uses_replaced(item: pytest.Function, elbos: tuple[type, ...]) -> bool:
    """Return whether a test uses one of the ELBOs, by the rule at the top of this file."""
    function, module = inspect.unwrap(item.function), item.module
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    given = [each for each in parameters if callable(each)]
    classes = [each for each in given if each in elbos or getattr(each, "__module__", "").startswith("pyro.infer")]
    functions = [each for each in given if inspect.isfunction(each) and each.__module__ == module.__name__]
    if classes or functions:
        return any(each in elbos for each in classes) or any(elbos_of(each, module, None, elbos) for each in functions)
    return bool(elbos_of(getattr(function, "__func__", function), module, item.cls, elbos))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pyros-own", action="store_true", help="replace nothing: the same tests with Pyro's ELBOs")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("pyros_own"):
        for each in REPLACEMENTS:
            setattr(pyro.infer, each.__name__, each)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that use none of the replaced ELBOs."""
    elbos = tuple(getattr(pyro.infer, each.__name__) for each in REPLACEMENTS)
    left_out = [item for item in items if not uses_replaced(item, elbos)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
