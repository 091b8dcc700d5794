"""Recipes: the class and constructor arguments of a module, from which a checkpoint rebuilds it.

A packaged module stores the arguments of its constructor as a *recipe*, plain data that JSON can hold::

    {"class": "StandardNormal", "arguments": {"latent_dim": 50}}

A module among the arguments is stored as its own recipe, so the recipe of a whole program is nested. A module that
occurs twice, such as the posterior that a VampPrior shares, is the same dictionary in both places. In a file the second
is a reference to the first, ``{"same_as": ["prior", "posterior"]}``.

``build`` turns a recipe into a module. It calls no classes but those of this package that inherit
:class:`Rebuildable`, so a recipe from a stranger cannot name other code.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from torch import nn

from pyro_vae.runtime.arguments import checked_constructor

__all__ = ["Rebuildable", "build", "with_references", "without_references"]

_registry: dict[str, type[Rebuildable]] = {}


class Rebuildable(nn.Module):
    """A module with a ``recipe``: its class and constructor arguments as JSON data.

    The recipe is ``None`` if an argument is neither plain data nor a module with a recipe, or if the class was defined
    outside this package. ``without_recipe`` has the names of the classes that are why.
    """

    recipe: dict[str, Any] | None
    without_recipe: tuple[str, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == "pyro_vae":
            _registry[cls.__name__] = cls
            checked_constructor(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Rebuildable:
        module = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(module, *args, **kwargs)
        given = {name: value for name, value in bound.arguments.items() if value is not module}
        arguments: dict[str, Any] = {}
        others: tuple[str, ...] = () if _registry.get(cls.__name__) is cls else (cls.__name__,)
        for name, value in given.items():
            try:
                arguments[name] = _as_data(value)
            except TypeError:
                others += _without_recipe(value)
        recipe = None if others else {"class": cls.__name__, "arguments": arguments}
        object.__setattr__(module, "recipe", recipe)
        object.__setattr__(module, "without_recipe", tuple(dict.fromkeys(others)))
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


def _without_recipe(value: Any) -> tuple[str, ...]:
    """Return the classes of the outermost parts in an argument that cannot be written as data."""
    if isinstance(value, (tuple, list)):
        return tuple(name for item in value for name in _without_recipe(item))
    try:
        _as_data(value)
    except TypeError:
        pass
    else:
        return ()
    if names := getattr(value, "without_recipe", ()):
        return tuple(names)
    is_ours = type(value).__module__.partition(".")[0] == "pyro_vae"
    inside = value.children() if is_ours and isinstance(value, nn.Module) else ()  # around plain networks
    names = tuple(name for part in inside for name in _without_recipe(part))
    return names or (getattr(value, "__name__", type(value).__name__),)


def with_references(recipe: Any) -> Any:
    """Return a recipe in which a part that occurs again is a reference, the path of its first occurrence.

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
    """Return the recipe from which :func:`with_references` made ``data``.

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
    """Build the module that a recipe describes; a dictionary that occurs twice becomes one module.

    Raises
    ------
    ValueError
        If the class is not one of this package's modules, or does not take the arguments.

    Examples
    --------
    >>> import pyro_vae
    >>> build(pyro_vae.StandardNormal(3).recipe)
    StandardNormal(3)
    """
    try:
        return _built(recipe, {}, "")
    except RecursionError:
        raise ValueError("recipe: found parts that are nested too deeply, expected those of a program") from None


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
