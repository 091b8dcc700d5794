"""What a run is made of, as plain data by name, for callbacks that write it down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

from torch import nn

from pyro_vae.data.batches import Batches
from pyro_vae.data.reading import order_of
from pyro_vae.data.same_calls import digest_of_data_in
from pyro_vae.inference.annealing import Annealed
from pyro_vae.inference.callables import ProgramModule, innermost
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.nn.recipes import with_references
from pyro_vae.objectives import Objective
from pyro_vae.training.callbacks import Run
from pyro_vae.training.loop import Loop
from pyro_vae.training.modules import recipe_of
from pyro_vae.training.run_state import RunState
from pyro_vae.training.trained import Trained

__all__ = ["facts_of", "run_of"]

_IN_DIGESTS = ("params", "program", "data", "valid")  # told otherwise, or by no words


def run_of(
    loop: Loop,
    facts: Mapping[str, Any],
    resumed: bool,
    lr: float | Callable[[float], float],
    patience: int | None,
    precision: str,
    seed: int | None,
) -> Run:
    """Describe a run that is about to start.

    Parameters
    ----------
    loop
        The run.
    facts
        What has to be the same when it is taken up again.
    resumed
        Whether it goes on from a checkpoint.
    lr
        The learning rate, or the function that gives it, of which the name is kept.
    patience, precision, seed
        As for ``fit``.
    """
    config = {
        **_program(loop),
        **{name: None if value == "NoneType" else value for name, value in facts.items() if name not in _IN_DIGESTS},
        "num_epochs": loop.num_epochs,
        "lr": _name(lr) if callable(lr) else lr,
        "patience": patience,
        "precision": precision,
        "seed": seed,
        "compiled": bool(loop.state.compiled),
        "device": str(loop.state.device),
        "num_parameters": sum(parameter.numel() for parameter in loop.trained),
        "pyro_vae": import_module("pyro_vae").__version__,
        **{name: version(name) for name in ("torch", "pyro-ppl")},
    }
    return Run(config, tuple(loop.state.records), loop.folder, resumed)


def _program(loop: Loop) -> dict[str, Any]:
    """Return the class of a packaged program and its arguments, or the names of two programs."""
    recipe = _recipe(loop.module)
    if recipe is None:
        return {"model": _name(_inner(loop.model)), "guide": _name(_inner(loop.guide))}
    return {"program": recipe["class"], **_arguments(recipe, "program")}


def _recipe(module: nn.Module) -> Any:
    """Return the recipe of a packaged program as plain data, ``None`` if it has none or is no longer what it says."""
    try:
        return with_references(recipe_of(module))
    except ValueError:
        return None


def _arguments(recipe: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the arguments of a recipe by their paths, parts among them by their classes."""
    found: dict[str, Any] = {}
    for name, value in recipe["arguments"].items():
        is_part = isinstance(value, dict) and "class" in value
        found[f"{path}.{name}"] = value["class"] if is_part else value
        if is_part:
            found |= _arguments(value, f"{path}.{name}")
    return found


def _inner(program: nn.Module) -> StochasticFunction:
    inner = innermost(program)
    return inner.__dict__["forward"] if isinstance(inner, ProgramModule) else inner


def _name(value: Any) -> str:
    """Return the name of a function, or of the class of an object."""
    function = getattr(value, "func", value)  # of a partial
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def facts_of(
    model: nn.Module, objective: Any, state: RunState, trained: Trained, valid: Batches | None,
    clip_norm: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what has to be the same when a run is taken up again.

    A scheduler goes on from the rate that the run began with; without one the rate may be another.
    """
    name = f"{type(objective).__name__}(num_particles={objective.num_particles})"
    return {
        "batch_size": trained.batches.batch_size,
        "num_data": trained.batches.num_data,
        "optimizer": type(state.optimizer).__name__,
        "scheduler": type(state.scheduler).__name__,
        "objective": repr(objective) if isinstance(objective, Objective) else name,
        "kl_weight": repr(model) if isinstance(model, Annealed) else None,
        "clip_norm": clip_norm,
        "order": order_of(trained.batches._source),  # of data on disk
        "lr": None if state.scheduler is None else state.optimizer.defaults.get("lr"),
        "program": _recipe(state.module),
        "data": digest_of_data_in(trained.batches),
        "valid": None if valid is None else digest_of_data_in(valid),
        "params": trained.params.descriptions() or None,  # of older runs, which had none, there is none
    }
