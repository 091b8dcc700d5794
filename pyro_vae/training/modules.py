"""Make one module of a pair, whose names of tensors are those in its files.

=========================================================  ========================================================
``(model, guide)``                                         Names
=========================================================  ========================================================
two modules                                                ``model.*``, ``guide.*``
methods of one module                                      those of the module
functions and the like                                     ``model.net.*``, ``guide.net.*`` for a network ``net``
with bare ``pyro.param("loc", ...)`` statements            as above (``model.*`` for methods), and ``params.loc``
=========================================================  ========================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from pyro_vae.inference.annealing import bare
from pyro_vae.inference.callables import ProgramModule, innermost
from pyro_vae.inference.missing import ObservedOnly
from pyro_vae.inference.parameters import StoreParams
from pyro_vae.nn.recipe_check import check_recipe, difference
from pyro_vae.nn.recipes import Rebuildable, without_references
from pyro_vae.runtime.allocation import BoundedAllocation
from pyro_vae.runtime.modules import named_owners

__all__ = [
    "as_module",
    "is_pair",
    "own_parts",
    "params_of",
    "recipe_of",
    "refuse_another_program",
    "stated_recipe",
    "warn_of_own_parts",
]


def is_pair(program: Any) -> bool:
    """Return whether it is two programs, none of them a class."""
    is_two = isinstance(program, (tuple, list)) and len(program) == 2
    return is_two and all(callable(part) and not isinstance(part, type) for part in program)


def as_module(program: Any, params: StoreParams | None = None) -> nn.Module:
    """A module, or a pair as one module, without what is wrapped around it.

    Parameters
    ----------
    program
        A module, or a pair of any programs.
    params
        What the pair keeps in Pyro's parameter store.
    """
    if isinstance(program, nn.Module):
        return _bare_module(program)
    if not is_pair(program):
        names = [type(part).__name__ for part in (program if isinstance(program, (tuple, list)) else [program])]
        raise TypeError(f"program: found ({', '.join(names)}), expected a module or a pair (model, guide) of programs")
    parts: dict[str, nn.Module] = {}
    is_known: set[nn.Module] = set()
    for half, each in zip(("model", "guide"), program, strict=True):
        found = _parts(each)
        if not isinstance(found, nn.Module):  # modules that the model has are not stored twice
            found = {name: module for name, module in found.items() if module not in is_known}
            if not found:
                continue
            found = found["self"] if found.keys() == {"self"} else _Named(found)
        parts[half] = found
        is_known.update(found.modules())
    if params:
        parts["params"] = params
    if parts.keys() == {"model"} and _parts(program[0]) == {"self": parts["model"]}:
        return parts["model"]
    return nn.ModuleDict(parts)


class _Named(nn.Module):
    """Modules by name. A ModuleDict takes no name of one of its methods, such as ``values``."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(modules)


def _parts(program: Any) -> nn.Module | dict[str, nn.Module]:
    """Return a program that is a module, or by their names the modules that another one uses."""
    inner = innermost(program)
    if isinstance(inner, ProgramModule):
        return dict(inner.named_children())
    return _bare_module(program) if isinstance(inner, nn.Module) else named_owners(inner)


def _bare_module(program: nn.Module) -> nn.Module:
    module = bare(program)
    if isinstance(module, ObservedOnly):
        module = module.program
    if not isinstance(module, nn.Module):
        raise TypeError(f"program: found the annealed {type(module).__name__}, expected an annealed module")
    return module


def params_of(module: nn.Module) -> StoreParams | None:
    """Return what a pair keeps in Pyro's parameter store, of the module that :func:`as_module` made."""
    params = module["params"] if isinstance(module, nn.ModuleDict) and "params" in module else None
    return params if isinstance(params, StoreParams) else None


def recipe_of(module: nn.Module) -> Any:
    """Return the recipe by which a file can rebuild what :func:`as_module` returned, or ``None`` if it has none.

    Raises
    ------
    ValueError
        If the program is no longer what its recipe says.
    """
    recipe = stated_recipe(module)
    if recipe is not None:
        check_recipe(recipe, module)
    return recipe


def stated_recipe(module: nn.Module) -> Any:
    """Return the recipe that a packaged program brings, whether or not it is still the program's."""
    if isinstance(module, nn.ModuleDict):  # a pair that fit was given: the two halves of one packaged program?
        recipes = [getattr(module[half], "recipe", None) if half in module else None for half in ("model", "guide")]
        return recipes[0] if recipes[0] == recipes[1] and isinstance(recipes[0], dict) else None
    return module.recipe if isinstance(module, Rebuildable) else None  # a half alone has a recipe too, but of the whole


def refuse_another_program(
    source: object, recipe: Any, module: nn.Module, tensors: Iterable[Tensor], advice: str = ""
) -> None:
    """Refuse a packaged program that is not the one whose recipe lies in a file beside its tensors.

    Programs of other networks can have weights of the same names and shapes. Of a program without a recipe, and of a
    recipe that cannot be built here, nothing is known.

    Raises
    ------
    ValueError
        If it is another; the message names the first part that differs.
    """
    if recipe is None or stated_recipe(module) is None:
        return
    try:
        with BoundedAllocation(tensors):
            found = difference(without_references(recipe), module)
    except ValueError:
        return
    if found is not None:
        raise ValueError(f"{source}: holds another program: {found}{advice}")


def own_parts(module: nn.Module) -> list[str]:
    """Return the classes that keep a packaged program, as :func:`as_module` returns it, from having a recipe."""
    halves = module.values() if isinstance(module, nn.ModuleDict) else [module]
    return list(dict.fromkeys(name for half in halves for name in getattr(half, "without_recipe", ())))


def warn_of_own_parts(module: nn.Module, recipe: Any, stacklevel: int) -> None:
    """Warn that it takes code to load a packaged program, if parts of one's own are why it has no recipe.

    Parameters
    ----------
    module
        What :func:`as_module` returned.
    recipe
        Its recipe.
    stacklevel
        As for ``warnings.warn``, of who calls this function.
    """
    names = own_parts(module)
    if recipe is None and names:
        warnings.warn(
            f"save: found parts that are not of this package, {', '.join(names)}: the file holds their weights and not "
            "their code, so that loading takes a program that was built with it, load(folder, program)",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
