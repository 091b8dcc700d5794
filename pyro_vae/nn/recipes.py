"""What the package asks of a module: where it lives, and how it was built.

A packaged module remembers the arguments of its constructor as a *recipe*, plain data that JSON can hold:

    {"class": "StandardNormal", "arguments": {"latent_dim": 50}}

A module among the arguments is stored as its own recipe, so the recipe of a whole program nests. One that is there
twice, such as the posterior that a VampPrior shares, is one and the same dictionary in both places, and in a file a
reference to the first of them, ``{"same_as": ["prior", "posterior"]}``. ``build`` reads a recipe back. It only ever
calls classes that registered themselves by inheriting :class:`Rebuildable` inside this package, so a recipe from a
stranger is data and cannot name other code.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from torch import nn

from pyro_vae.runtime.arguments import checked_constructor

__all__ = [
    "Rebuildable",
    "build",
    "with_references",
    "without_references",
]

_registry: dict[str, type[Rebuildable]] = {}


class Rebuildable(nn.Module):
    """A module with a ``recipe``: its class and constructor arguments as JSON data, or ``None`` if it has none.

    There is no recipe when an argument is neither plain data nor a module with a recipe, or when the class was defined
    outside this package.
    """

    recipe: dict[str, Any] | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == "pyro_vae":
            _registry[cls.__name__] = cls
            checked_constructor(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Rebuildable:
        module = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(module, *args, **kwargs)
        given = {name: value for name, value in bound.arguments.items() if value is not module}
        try:
            arguments = {name: _as_data(value) for name, value in given.items()}
        except TypeError:
            recipe = None
        else:
            recipe = {"class": cls.__name__, "arguments": arguments} if _registry.get(cls.__name__) is cls else None
        object.__setattr__(module, "recipe", recipe)
        return module


def _as_data(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_as_data(item) for item in value]
    recipe = getattr(value, "recipe", None)
    if recipe is None:
        raise TypeError(f"{type(value).__name__} cannot be written as data")
    return recipe


def with_references(recipe: Any) -> Any:
    """A recipe as a file can hold it: what occurs again is a reference, the path to where it stands first.

    >>> inner = {"class": "StandardNormal", "arguments": {"latent_dim": 3}}
    >>> with_references({"class": "Pair", "arguments": {"a": inner, "b": inner}})["arguments"]["b"]
    {'same_as': ['a']}
    """
    first: dict[int, list[Any]] = {}

    def referred(value: Any, path: list[Any]) -> Any:
        if isinstance(value, list):
            return [referred(item, [*path, index]) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if id(value) in first:
            return {"same_as": first[id(value)]}
        first[id(value)] = path
        arguments = {name: referred(item, [*path, name]) for name, item in value["arguments"].items()}
        return {**value, "arguments": arguments}

    return referred(recipe, [])


def without_references(data: Any) -> Any:
    """The recipe that :func:`with_references` was given, or one equal to it.

    Raises
    ------
    ValueError
        If a reference leads nowhere.
    """
    known: dict[tuple[Any, ...], Any] = {}

    def resolved(value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, list):
            return [resolved(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if set(value) == {"same_as"}:
            where = tuple(value["same_as"]) if isinstance(value["same_as"], list) else None
            if where not in known:
                raise ValueError(
                    f"recipe: found a reference to {value['same_as']!r}, expected the path of a part before it"
                )
            return known[where]
        recipe = dict(value)
        if isinstance(recipe.get("arguments"), dict):
            recipe["arguments"] = {name: resolved(item, (*path, name)) for name, item in recipe["arguments"].items()}
        known[path] = recipe
        return recipe

    return resolved(data, ())


def build(recipe: Any) -> Any:
    """Rebuild what ``recipe`` describes; a dictionary that occurs in it twice becomes one module.

    Raises
    ------
    ValueError
        If the recipe names a class that is not one of this package's modules, or arguments the class does not take.

    Examples
    --------
    >>> import pyro_vae
    >>> build(pyro_vae.StandardNormal(3).recipe)
    StandardNormal(3)
    """
    try:
        return _built(recipe, {}, "")
    except RecursionError:
        raise ValueError("recipe: found parts in parts without end, expected a program's") from None


def _built(recipe: Any, parts: dict[int, Any], path: str) -> Any:
    if isinstance(recipe, list):
        return tuple(_built(item, parts, f"{path}[{index}]") for index, item in enumerate(recipe))
    if not isinstance(recipe, dict):
        return recipe
    if id(recipe) in parts:
        return parts[id(recipe)]
    where = f"; in the part {path!r}" if path else ""
    if set(recipe) != {"class", "arguments"} or not isinstance(recipe["arguments"], dict):
        raise ValueError(f"recipe: found the keys {sorted(map(str, recipe))}, expected 'class' and 'arguments'{where}")
    if not isinstance(recipe["class"], str) or recipe["class"] not in _registry:
        choices = ", ".join(sorted(_registry))
        raise ValueError(f"recipe: found the class {recipe['class']!r}, expected one of {choices}{where}")
    arguments = {
        name: _built(value, parts, f"{path}.{name}".removeprefix(".")) for name, value in recipe["arguments"].items()
    }
    try:
        parts[id(recipe)] = _registry[recipe["class"]](**arguments)
    except RecursionError:
        raise
    except Exception as error:  # arguments from a file can be wrong in any way
        raise ValueError(f"recipe: {recipe['class']} cannot be built from it: {error}{where}") from error
    return parts[id(recipe)]
