"""Find the modules that a program is made of, and the device of their parameters.

A program is any callable: a module, a method, a ``partial``, a function that uses networks from its closure or by a
global name. What it can reach without being run is looked through, lists and plain objects included.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["dtype_of", "named_owners", "owners", "placement"]

_LIBRARIES = {*sys.stdlib_module_names, "numpy", "pyro", "pyro_vae", "torch"} - {"__main__"}
_MOST_ITEMS, _MOST_LEVELS = 256, 6  # of a container, and of objects in objects: a data set is not looked through


def named_owners(program: Any) -> dict[str, nn.Module]:
    """Return the modules that a callable is made of, by the names that it knows them by.

    These are the callable itself or the object of a method, both called ``self``, the content of a handler or
    ``partial``, and the modules that a function uses from its closure or by a global name, also where they are in a
    list, a dictionary or an object, or used by another function. A module inside of another one is left out.

    >>> layers = [nn.Linear(1, 1), nn.Linear(1, 2)]
    >>> named_owners(lambda x: layers[0](x))
    {'layers[0]': Linear(in_features=1, out_features=1, bias=True), 'layers[1]': Linear(in_features=1, ...)}
    """
    search = _Search()
    search.visit(program, "", 0)
    inside = {id(part) for module in search.found.values() for part in module.modules() if part is not module}
    return {name: module for name, module in search.found.items() if id(module) not in inside}


def owners(program: Any) -> Iterator[nn.Module]:
    """Yield the modules that a callable is made of, see :func:`named_owners`.

    >>> layer = nn.Linear(1, 1)
    >>> list(owners(functools.partial(layer.forward, torch.ones(1))))
    [Linear(in_features=1, out_features=1, bias=True)]
    """
    if isinstance(program, nn.Module) and not hasattr(program, "__wrapped__"):
        yield program  # at once, as this runs with every program
    else:
        yield from named_owners(program).values()


class _Search:
    """A walk through all that a callable can reach, each object once."""

    def __init__(self) -> None:
        self.found: dict[str, nn.Module] = {}
        self.seen: dict[int, Any] = {}  # the objects too, so that no other one gets their number

    def visit(self, value: Any, path: str, level: int) -> None:
        if id(value) in self.seen or level > _MOST_LEVELS:
            return
        self.seen[id(value)] = value
        if (
            isinstance(value, (nn.Module, FunctionType))
            and (wrapped := getattr(value, "__wrapped__", None)) is not None
        ):
            self.visit(wrapped, path, level)
            if isinstance(value, nn.Module):
                return
        if isinstance(value, nn.Module):
            name = path.replace(".", "/") or "self"
            while name in self.found:
                name += "'"
            self.found[name] = value
            return
        for name, part in self._parts(value, is_program=level == 0):
            self.visit(part, f"{path}{name}" if name[:1] == "[" else f"{path}.{name}".strip("."), level + 1)

    def _parts(self, value: Any, is_program: bool) -> Iterator[tuple[str, Any]]:
        if isinstance(value, functools.partial):  # Pyro's handlers too
            yield "", value.func
            is_handler = _is_of_library(getattr(value.func, "__module__", None))
            yield from (("" if is_handler else f"args[{index}]", part) for index, part in enumerate(value.args))
            yield from value.keywords.items()
        elif isinstance(value, MethodType):
            yield "", value.__self__
            yield "", value.__func__
        elif isinstance(value, FunctionType):
            yield from _variables(value, with_globals=is_program or not _is_of_library(value.__module__)).items()
        elif isinstance(value, (list, tuple, set, frozenset, Mapping)):
            if len(value) <= _MOST_ITEMS:
                items = value.items() if isinstance(value, Mapping) else enumerate(value)
                yield from ((f"[{key}]", part) for key, part in items)
        elif not isinstance(value, type) and not _is_of_library(type(value).__module__):
            yield from getattr(value, "__dict__", {}).items()
            if inspect.isfunction(function := vars(type(value)).get("__call__")):
                yield "", function


def _is_of_library(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] in _LIBRARIES


def _variables(function: FunctionType, with_globals: bool) -> dict[str, Any]:
    """Return the variables of a function from outside: those of its closure, and the globals that it names."""
    names = _global_names(function.__code__) if with_globals else ()
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # a variable that is still to be assigned
            continue
    return known


@functools.lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """Return the global names that code reads, functions within it included."""
    names = [each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _global_names(constant)
    return tuple(dict.fromkeys(names))


def placement(*programs: Any, data: Any = None) -> tuple[torch.device, torch.dtype]:
    """Return the device and floating dtype of the first parameter or buffer of programs.

    Without one, they are the CPU and the dtype of ``data``, see :func:`dtype_of`.

    >>> placement(nn.Linear(1, 1).double())
    (device(type='cpu'), torch.float64)
    """
    for owner in (owner for program in programs for owner in owners(program)):
        for tensor in (*owner.parameters(), *owner.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), dtype_of(data)


def dtype_of(data: Any) -> torch.dtype:
    """Return the dtype of a tensor, or of the first in a tuple or dictionary, if it is floating; else the default one.

    >>> dtype_of((torch.arange(3), torch.zeros(3).double()))
    torch.float64
    """
    if isinstance(getattr(data, "values", None), tuple):  # of the arguments of a program
        data = data.values
    entries = data.values() if isinstance(data, dict) else data if isinstance(data, tuple) else [data]
    dtypes = [each.dtype for each in entries if isinstance(each, Tensor) and each.is_floating_point()]
    return next(iter(dtypes), torch.get_default_dtype())
