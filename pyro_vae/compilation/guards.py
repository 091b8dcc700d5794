"""Guard a compiled graph against changes of what it was traced from.

A graph reads the values of tensors anew at each call. All else is frozen into it: that a module is in training mode,
that a parameter is this one and has this shape, that a number is 0.5. :class:`Guards` keeps a fingerprint of it, the
objects in the attributes of every module and the form of every tensor, and compares it before each use of the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vae.data.batch import Batch, tensors_in
from pyro_vae.schedules import Schedule

__all__ = ["Form", "Guards", "forms_of", "options_of"]

_MISSING = object()


class Form(NamedTuple):
    """All of a tensor but its values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad)


def forms_of(batch: Batch) -> list[Form]:
    """Return the forms of the tensors of a batch, which are the inputs of a graph."""
    return list(map(Form.of, tensors_in(batch)))


def options_of(batch: Batch) -> tuple[Any, ...]:
    """Return all of a batch but its tensors: a graph holds the options that it was traced with for good.

    >>> from pyro_vae.data.batch import Arguments
    >>> options_of(Arguments(torch.zeros(2), 0.5, mode="mean"))
    (2, ('mode',), ((<class 'float'>, 0.5), (<class 'str'>, 'mean')))
    """
    if isinstance(batch, Tensor):
        return ()
    options = tuple((type(value), value) for value in batch.values if not isinstance(value, Tensor))
    return len(batch.args), tuple(batch.kwargs), options


class _Contents(NamedTuple):
    """A dictionary, list or set that belongs to a module, and what was in it."""

    owner: Any
    path: str
    container: Any
    before: dict[Any, Any]

    def change(self) -> str | None:
        """Return what has changed first, or ``None``."""
        now = _items(self.container)
        for key in {**self.before, **now}:
            if isinstance(self.owner, Transform) and (key == "_inv" or str(key).startswith("_cached")):
                continue  # values of its last call, and its inverse, made when first asked for
            old, new = self.before.get(key, _MISSING), now.get(key, _MISSING)
            if not _is_same(old, new):
                name = ".".join(filter(None, (self.path, str(key))))
                found = f"found {_shown(new)}, it was {_shown(old)}"
                return f"attribute {name!r} of {type(self.owner).__name__} ({found})"
        return None

    def restore(self) -> None:
        """Put back what was there; leave alone what holds the same objects, in any order if it is a set."""
        now, before, container = _items(self.container), self.before, self.container
        same_keys = now.keys() == before.keys() if isinstance(container, set) else list(now) == list(before)
        if same_keys and all(now[key] is before[key] for key in before):
            return
        container.clear()
        if isinstance(container, list):
            container += before.values()
        else:
            container.update(before)


class Guards:
    """Guards on what ``sources`` consist of now, and on the form of ``tensors``.

    Sources are modules and objects with attributes, such as an objective. Compared are their attributes and what is in
    lists, sets and dictionaries among them. Not compared are the step of a schedule, whose value is a tensor, and what
    a transform remembers of its last call.

    Examples
    --------
    >>> layer = nn.Dropout(0.5)
    >>> guards = Guards([layer])
    >>> layer.p = 0.25
    >>> guards.is_valid(), guards.first_change()
    (False, "attribute 'p' of Dropout (found 0.25, it was 0.5)")
    """

    def __init__(self, sources: Iterable[Any], tensors: Iterable[Tensor] = ()) -> None:
        self.contents = [contents for part in _parts(sources) for contents in _contents_of(part)]
        self.checked = list(tensors)
        self.forms = list(map(Form.of, self.checked))
        # the fingerprint, whose thousand objects are compared in a few calls; sets have no order, transforms caches
        self._transforms = [each for each in self.contents if isinstance(each.owner, Transform)]
        others = [each for each in self.contents if not isinstance(each.owner, Transform)]
        sets = [each for each in others if isinstance(each.container, set)]
        plain = [each for each in others if not isinstance(each.container, set)]
        self._sets = [each.container for each in sets]
        self._elements = [set(each.before) for each in sets]
        self._containers = [each.container for each in plain]
        self._values = [each.values() if isinstance(each, dict) else each for each in self._containers if each]
        own = [each for each in plain if isinstance(each.container, dict) and each.path and each.path[0] != "_"]
        self._keyed = [each.container for each in own]  # of dictionaries that are attributes, not torch's own
        self._keys = list(chain.from_iterable(self._keyed))
        self._sizes = [len(each.before) for each in plain]
        self._objects = list(chain.from_iterable(each.before.values() for each in plain))

    def is_valid(self) -> bool:
        """Return whether nothing has changed."""
        objects, keys = chain.from_iterable(self._values), chain.from_iterable(self._keyed)
        same = list(map(len, self._containers)) == self._sizes and self._sets == self._elements
        same = same and all(map(operator.is_, objects, self._objects)) and all(map(operator.is_, keys, self._keys))
        if not same or any(each.change() for each in self._transforms):
            return self.first_change() is None  # equal numbers need not be one object
        return list(map(Form.of, self.checked)) == self.forms

    def first_change(self) -> str | None:
        """Return what has changed first, or ``None``."""
        pairs = zip(map(Form.of, self.checked), self.forms, strict=True)
        forms = (f"a tensor (found {found}, it was {form})" for found, form in pairs if found != form)
        return next(filter(None, chain((each.change() for each in self.contents), forms)), None)

    def tensors(self) -> Iterator[Tensor]:
        """Return the tensors that the sources held."""
        values = chain.from_iterable(contents.before.values() for contents in self.contents)
        return (value for value in values if isinstance(value, Tensor))

    def restore(self) -> None:
        """Put back what the sources held; the forms of tensors stay."""
        for contents in self.contents:
            contents.restore()


def _parts(sources: Iterable[Any]) -> Iterator[Any]:
    """Return the sources and the modules in them, each once."""
    parts: dict[int, Any] = {}
    for source in sources:
        parts[id(source)] = source
        for each in (source, *vars(source).values()):
            if isinstance(each, nn.Module):
                parts.update((id(module), module) for module in each.modules())
    yield from parts.values()


def _contents_of(owner: Any, path: str = "", container: Any = None) -> Iterator[_Contents]:
    """Return the attributes of an object, and the lists, sets and dictionaries in them."""
    if container is None:
        container = owner._buffers if isinstance(owner, Schedule) else vars(owner)
    items = _items(container)
    if type(container) is not tuple:
        yield _Contents(owner, path, container, items)
    for key, value in items.items():
        if isinstance(value, (dict, list, set)) or type(value) is tuple:
            yield from _contents_of(owner, f"{path}.{key}".removeprefix("."), value)


def _items(container: Any) -> dict[Any, Any]:
    """Return a container by its keys; an element of a set, which has no order, is its own key."""
    if isinstance(container, dict):
        return dict(container)
    return {each: each for each in container} if isinstance(container, set) else dict(enumerate(container))


def _is_same(old: Any, new: Any) -> bool:
    """Return whether two values are one object, or equal as plain data are."""
    if old is new or type(old) is not type(new):
        return old is new
    if isinstance(old, (tuple, list)):
        return len(old) == len(new) and all(map(_is_same, old, new))
    return isinstance(old, (bool, int, float, complex, str, bytes, frozenset, set)) and old == new


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else "none" if value is _MISSING else f"another {type(value).__name__}"
