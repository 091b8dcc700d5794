"""What a traced function takes for granted: all of its modules and tensors but the values of the tensors.

A graph of tensor operations reads tensors anew at each call, and nothing else: that a module is in training mode, that
a parameter is this one and has this shape, that a number is 0.5, is frozen into it. :class:`Assumptions` remembers all
of it and tells whether it still holds, in some microseconds, before each use of the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vae.schedules import Schedule

__all__ = ["Assumptions", "Form"]

_MISSING = object()


class Form(NamedTuple):
    """What kernels are compiled for: all of a tensor but its values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad)


class _Contents(NamedTuple):
    """A container that belongs to a module, and what was in it."""

    owner: Any
    path: str
    container: Any
    keys: tuple[Any, ...]
    values: tuple[Any, ...]

    @classmethod
    def of(cls, owner: Any, path: str, container: Any) -> _Contents:
        return cls(owner, path, container, *_keys_and_values(container))

    @property
    def has_caches(self) -> bool:
        return isinstance(self.owner, Transform)

    def before(self) -> dict[Any, Any]:
        return self._compared(self.keys, self.values)

    def now(self) -> dict[Any, Any]:
        return self._compared(*_keys_and_values(self.container))

    def _compared(self, keys: tuple[Any, ...], values: tuple[Any, ...]) -> dict[Any, Any]:
        found = dict(zip(keys, values, strict=True))
        if self.has_caches:  # the last call's values, and the inverse, which is made when first asked for
            return {key: value for key, value in found.items() if key != "_inv" and not str(key).startswith("_cached")}
        return found


class Assumptions:
    """What ``sources`` consist of now, and what form ``tensors`` have.

    Sources are modules and objects that keep what they need in attributes, such as an objective. Compared are their
    attributes, and what is in lists and dictionaries among them. The value of a schedule is a tensor, and the step that
    it is at is not compared; neither is what a transform remembers of its last call.

    Examples
    --------
    >>> layer = nn.Dropout(0.5)
    >>> assumptions = Assumptions([layer])
    >>> layer.p = 0.25
    >>> assumptions.hold(), assumptions.broken()
    (False, "attribute 'p' of Dropout (found 0.25, it was 0.5)")
    """

    def __init__(self, sources: Iterable[Any], tensors: Iterable[Tensor] = ()) -> None:
        self.contents = [_Contents.of(*found) for owner in _parts(sources) for found in _containers(owner)]
        self.forms = [(tensor, Form.of(tensor)) for tensor in tensors]
        # in this form a comparison of some thousand values is a few calls
        self._sets = [(each.container, set(each.values)) for each in self.contents if isinstance(each.container, set)]
        self._with_caches = [contents for contents in self.contents if contents.has_caches]
        plain = [each for each in self.contents if not each.has_caches and not isinstance(each.container, set)]
        self._containers = [contents.container for contents in plain]
        self._views = [each.values() if isinstance(each, dict) else each for each in self._containers if each]
        self._sizes = [len(contents.values) for contents in plain]
        self._values = list(chain.from_iterable(contents.values for contents in plain))

    def hold(self) -> bool:
        """Whether nothing has changed."""
        same = (
            list(map(len, self._containers)) == self._sizes
            and all(map(operator.is_, chain.from_iterable(self._views), self._values))
            and all(found == was for found, was in self._sets)
        )
        if not same or self._with_caches:  # equal numbers need not be one object
            return self.broken() is None
        return [Form.of(tensor) for tensor, _ in self.forms] == [form for _, form in self.forms]

    def broken(self) -> str | None:
        """What has changed first, or ``None``."""
        for contents in self.contents:
            was, found = contents.before(), contents.now()
            for key in {**was, **found}:
                old, new = was.get(key, _MISSING), found.get(key, _MISSING)
                if not _same(old, new):
                    name = ".".join(filter(None, (contents.path, str(key))))
                    return (
                        f"attribute {name!r} of {type(contents.owner).__name__} (found {_shown(new)}, it was "
                        f"{_shown(old)})"
                    )
        for tensor, form in self.forms:
            if Form.of(tensor) != form:
                return f"a tensor (found {Form.of(tensor)}, it was {form})"
        return None

    def tensors(self) -> Iterator[Tensor]:
        """The tensors among what the sources consist of."""
        values = chain.from_iterable(contents.values for contents in self.contents)
        return (value for value in values if isinstance(value, Tensor))

    def restore(self) -> None:
        """Put back what was there, but for the forms of tensors; leave alone what has not changed."""
        for _, _, container, keys, values in self.contents:
            if _is_unchanged(container, keys, values):
                continue
            if isinstance(container, dict):
                container.clear()
                container.update(zip(keys, values, strict=True))
            elif isinstance(container, list):
                container[:] = values
            else:
                container.clear()
                container.update(values)


def _parts(sources: Iterable[Any]) -> Iterator[Any]:
    """The sources and the modules in them, each once."""
    parts: dict[int, Any] = {}
    for source in sources:
        inside = [value for value in vars(source).values() if isinstance(value, nn.Module)]
        for module in [source, *inside]:
            for part in module.modules() if isinstance(module, nn.Module) else [module]:
                parts[id(part)] = part
    yield from parts.values()


def _containers(owner: Any) -> Iterator[tuple[Any, str, Any]]:
    """The attributes of an object and the lists, sets and dictionaries in them, with their names."""
    if isinstance(owner, Schedule):
        yield owner, "", owner._buffers
        return
    waiting: list[tuple[str, Any]] = [("", vars(owner))]
    while waiting:
        path, container = waiting.pop()
        if isinstance(container, (dict, list, set)):
            yield owner, path, container
        pairs = zip(*_keys_and_values(container), strict=True)
        waiting += [(f"{path}.{key}".removeprefix("."), value) for key, value in pairs if _is_container(value)]


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, set)) or type(value) is tuple


def _keys_and_values(container: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the keys of a container and what they lead to; an element of a set, which has no order, is its own key."""
    if isinstance(container, dict):
        return tuple(container.keys()), tuple(container.values())
    values = tuple(container)
    return values if isinstance(container, set) else tuple(range(len(values))), values


def _is_unchanged(container: Any, keys: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
    """Tell whether a container holds the same objects as before: in the same order, unless it is a set."""
    if isinstance(container, set):
        return container == set(values)
    now = _keys_and_values(container)
    return now[0] == keys and len(now[1]) == len(values) and all(map(operator.is_, now[1], values))


def _same(old: Any, new: Any) -> bool:
    """Whether two values are one object, or equal as plain data are."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if isinstance(old, (tuple, list)):
        return len(old) == len(new) and all(map(_same, old, new))
    return isinstance(old, (bool, int, float, complex, str, bytes, frozenset, set)) and old == new


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else "none" if value is _MISSING else f"another {type(value).__name__}"
