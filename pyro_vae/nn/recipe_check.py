"""A check that a program still matches its recipe.

A recipe holds the arguments of a constructor. It misses a part that was replaced later, as in
``vae.model.likelihood = Laplace(...)``, and a file with that recipe would load the old part with the new weights. So
before a recipe is written, a program is built from it and compared with the given one, module by module. The check
compares types, attributes, hooks and shared parts, names and shapes of parameters and buffers, and the values of
buffers that no file holds. It ignores weights, dtypes, devices, ``requires_grad`` and train/eval modes.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vae.nn.recipes import build, with_references, without_references

__all__ = ["check_recipe", "difference"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
_STATE = ("_parameters", "_buffers", "_modules")
_INTERNAL = {*vars(nn.Module()), "recipe", "without_recipe", "_compiled_call_impl"}
_MISSING = object()


class _Different(Exception):
    """Raised at the first difference, with its place, the part found and that of the recipe."""


def check_recipe(recipe: Any, program: nn.Module) -> None:
    """Raise ``ValueError`` unless a program matches its recipe.

    Parameters
    ----------
    recipe
        Plain data, see :mod:`pyro_vae.nn.recipes`.
    program
        The program, or its two halves as an ``nn.ModuleDict`` of ``model`` and ``guide``.

    Raises
    ------
    ValueError
        If they differ; the message names the part by its path.
    """
    try:
        found = difference(recipe, program)
    except ValueError as error:
        found = str(error)
    if found is not None:
        raise ValueError(
            f"program: {found}; build the program with the parts it is to have, or set .recipe = None on it (for a "
            "pair on model and guide) to save the weights alone"
        )


def difference(recipe: Any, program: nn.Module) -> str | None:
    """Return in words where a program, or its two halves, first differs from its recipe; ``None`` if nowhere.

    Raises
    ------
    ValueError
        If the recipe cannot be built.
    """
    expected = _built(json.dumps(with_references(recipe)), torch.get_default_dtype())
    compare = _Comparison().compare
    try:
        if isinstance(program, nn.ModuleDict):
            for half in ("model", "guide"):
                compare(half, program[half], getattr(expected, half))
        else:
            compare("", program, expected)
    except _Different as different:
        return str(different)
    return None


@functools.lru_cache(maxsize=4)  # a run saves the same program many times
def _built(recipe: str, dtype: torch.dtype) -> Any:
    """Build a program from a recipe without its weights; ``dtype``, the default one, is only a key of the cache."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        program = build(without_references(json.loads(recipe)))
    shapes: dict[Tensor, Tensor] = {}  # a tensor's hash is its identity
    for module in program.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
                module._parameters[name] = shapes.setdefault(parameter, empty)
    return program


class _Comparison:
    """A walk through two structures of modules and plain objects, side by side."""

    def __init__(self) -> None:
        self.partners: dict[int, Any] = {}  # the counterpart of each object met, found or expected
        self.paths: dict[int, str] = {}

    def compare(self, path: str, found: Any, expected: Any) -> None:
        if type(found) is not type(expected):
            raise _Different(_sentence(path, found, expected))
        if isinstance(expected, nn.Module):
            if self._is_known(path, found, expected):
                return
            self._compare_modules(path, found, expected)
        elif isinstance(expected, Tensor):
            if not _equal_tensors(found, expected):
                raise _Different(_sentence(path, found, expected))
        elif isinstance(expected, (list, tuple)):
            if len(found) != len(expected):
                raise _Different(_sentence(path, found, expected))
            for index, (each, other) in enumerate(zip(found, expected, strict=True)):
                self.compare(f"{path}[{index}]", each, other)
        elif isinstance(expected, dict):
            self._compare_entries(path, found, expected)
        elif isinstance(expected, functools.partial):
            self.compare(path, [found.func, found.args, found.keywords],
                         [expected.func, expected.args, expected.keywords])  # fmt: skip
        elif isinstance(expected, types.MethodType):
            self.compare(path, [found.__func__, found.__self__], [expected.__func__, expected.__self__])
        elif isinstance(expected, types.FunctionType):
            cells = [[cell.cell_contents for cell in each.__closure__ or ()] for each in (found, expected)]
            if found.__code__ is not expected.__code__:
                raise _Different(_sentence(path, found, expected))
            self.compare(path, cells[0], cells[1])
        elif hasattr(expected, "__dict__") and not isinstance(expected, type):
            if not self._is_known(path, found, expected):
                self._compare_entries(path, _attributes(found), _attributes(expected))
        elif not (found is expected or found == expected or (found != found and expected != expected)):
            raise _Different(_sentence(path, found, expected))

    def _is_known(self, path: str, found: Any, expected: Any) -> bool:
        """Return true if this pair was met before; raise if an object is shared in only one of the two structures."""
        partners = [self.partners.get(id(each)) for each in (found, expected)]
        if partners == [None, None]:
            self.partners |= {id(found): expected, id(expected): found}
            self.paths |= {id(found): path, id(expected): path}
            return False
        if partners[0] is expected:
            return True
        first = self.paths[id(found if partners[0] is not None else expected)]
        both = [f"the one of {first!r}", "one of its own"]
        was, has = both if partners[0] is not None else both[::-1]
        raise _Different(f"part {path!r}: found {was}, its recipe has {has}")

    def _compare_modules(self, path: str, found: nn.Module, expected: nn.Module) -> None:
        for name in _HOOKS:
            hooks = [[_shown(hook) for hook in vars(each).get(name, {}).values()] for each in (found, expected)]
            if hooks[0] != hooks[1]:
                raise _Different(
                    f"part {path or 'the whole'!r}: found {name.strip('_').replace('_', ' ')} {hooks[0]}, its recipe "
                    f"has {hooks[1] or 'none'}"
                )
        self._compare_entries(path, _attributes(found), _attributes(expected), owner=expected)
        for kind in _STATE:
            before, after = vars(expected)[kind], vars(found)[kind]
            for name in {**before, **after}:
                inside = f"{path}.{name}".removeprefix(".")
                old, new = before.get(name, _MISSING), after.get(name, _MISSING)
                if isinstance(old, Tensor) and isinstance(new, Tensor):
                    is_saved = name not in expected._non_persistent_buffers_set
                    if is_saved != (name not in found._non_persistent_buffers_set):
                        raise _Different(f"part {inside!r}: found one that is {'not ' * is_saved}saved, its recipe has "
                                         f"one that is {'not ' * (not is_saved)}saved")  # fmt: skip
                    same = new.shape == old.shape if is_saved else _equal_tensors(new, old)
                    if not same:
                        raise _Different(_sentence(inside, new, old))
                    if is_saved:
                        self._is_known(inside, new, old)
                else:
                    self.compare(inside, new, old)

    def _compare_entries(self, path: str, found: Any, expected: Any, owner: Any = None) -> None:
        """Compare dictionaries; an extra attribute that a module's class does not know is ignored."""
        for name in {**expected, **found}:
            old, new = expected.get(name, _MISSING), found.get(name, _MISSING)
            if old is _MISSING and owner is not None and not hasattr(owner, name):
                continue
            if old is not new:
                self.compare(f"{path}.{name}".removeprefix("."), new, old)


def _attributes(owner: Any) -> dict[str, Any]:
    """Return an object's attributes without the internals of torch and Pyro and without caches."""
    caches = ("_cached", "_inv") if isinstance(owner, Transform) else ()
    hidden = _INTERNAL if isinstance(owner, nn.Module) else ()
    return {
        name: value
        for name, value in vars(owner).items()
        if name not in hidden and not name.startswith(("_pyro_", *caches))
    }


def _equal_tensors(found: Tensor, expected: Tensor) -> bool:
    """Return true if two tensors are equal, up to the rounding of a cast to another dtype and back."""
    if found.shape != expected.shape or found.is_floating_point() != expected.is_floating_point():
        return False
    found, expected = found.detach().cpu(), expected.detach().cpu()
    if not found.is_floating_point():
        return torch.equal(found, expected.to(found.dtype))
    if torch.equal(found.to(expected.dtype), expected):
        return True
    rounded = (expected.to(dtype).to(found.dtype) for dtype in (found.dtype, *_shorter(expected.dtype)))
    return any(torch.equal(found, each) for each in rounded)


def _shorter(dtype: torch.dtype) -> Iterator[torch.dtype]:
    return (each for each in (torch.float32, torch.bfloat16, torch.float16) if each.itemsize < dtype.itemsize)


def _sentence(path: str, found: Any, expected: Any) -> str:
    kind = (
        "part" if isinstance(expected, (nn.Module, Tensor)) or isinstance(found, (nn.Module, Tensor)) else "attribute"
    )
    shown = [_shown(found), _shown(expected)]
    if shown[0] == shown[1]:  # such as two functions of one name, or two tensors of one shape
        shown[0] = f"another {shown[0]}"
    return f"{kind} {path or 'the whole'!r}: found {shown[0]}, its recipe has {shown[1]}"


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "none"
    if isinstance(value, Tensor):
        return f"{type(value).__name__} {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)):
        text = repr(value)
        return text if len(text) < 80 else f"{type(value).__name__} of {len(value)}"  # type: ignore[arg-type]
    return getattr(value, "__qualname__", type(value).__name__)
