r"""Checks of arguments against the annotations of a signature, before anything runs.

An annotation stands for a set of values, and every argument must belong to its set,

.. math:: a_i \in A_i .

Known annotations are ``bool``, ``float``, ``str``, ``None``, ``Literal``, classes, ``Callable``, sequences and unions
of these. A range is an annotation that carries one of the :mod:`~pyro_vae.runtime.kinds`; the usual ones have names
here::

    def fit(..., num_epochs: PositiveInteger = 20, lr: PositiveNumber = 1e-3, device: Device | None = None)

A string beside a type, as in ``Annotated[nn.Module, "a module whose forward is a distribution"]``, describes the set in
messages. Other annotations, such as a plain ``int``, are not checked.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.runtime.kinds import Flags, Floats, Integers, Kind, Names, Numbers, Sizes
from pyro_vae.runtime.objects import Arrays, Callables, Data, Devices, Either, Instances, OrNone, Sequences

__all__ = [
    "AnyData",
    "Array",
    "DataShape",
    "Device",
    "NonNegativeInteger",
    "NonNegativeNumber",
    "PathLike",
    "PositiveInteger",
    "PositiveNumber",
    "Seed",
    "Widths",
    "check",
    "checked",
    "checked_constructor",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

PositiveInteger = Annotated[int, Integers("a positive integer", 1)]
NonNegativeInteger = Annotated[int, Integers("an integer, 0 or more", 0)]
PositiveNumber = Annotated[float, Numbers("a positive number", 0, math.inf, "both")]
NonNegativeNumber = Annotated[float, Numbers("a finite number, 0 or more", 0, math.inf, "high")]
Seed = Annotated[int, Integers("an integer from 0 to 2**63 - 1", 0, 2**63 - 1)]
DataShape = Annotated[Sequence[int], Sizes("positive integers", bounded=True)]
Widths = Annotated[Sequence[int], Sizes("positive integers")]
Device = Annotated[torch.device | str, Devices("a device that there is here and that holds values, such as 'cpu'")]
PathLike = Annotated[str | os.PathLike[str], Instances("a path", (str, os.PathLike), by_value=True)]
Array = Annotated[Any, Arrays("a tensor or an array of real numbers, dense and with their values")]
AnyData = Annotated[Any, Data("data, dense and with their values")]

_PLAIN: dict[Any, Kind] = {
    bool: Flags("True or False"),
    float: Floats("a number"),
    str: Instances("a string", str, by_value=True),
    Tensor: Arrays("a tensor of real numbers, dense and with their values", least_dims=0, tensors_alone=True),
    nn.Module: Instances("a module", nn.Module),
}


def kind_of(annotation: Any) -> Kind | None:
    """Return the set of values that an annotation stands for, or ``None`` if it is not known.

    >>> kind_of(typing.Literal["mean", "draw"] | None).accepts("median")
    False
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(*parts)
    if origin in (Union, types.UnionType):
        return _union(parts)
    if origin is typing.Literal:
        return Names(f"one of {_listed(parts)}", parts)
    if origin is collections.abc.Sequence:
        if parts[0] is int:
            return Sizes("a sequence of integers", least=-(2**31))
        item = kind_of(parts[0])
        return None if item is None else Sequences(f"a list, each entry {item.expected}", item)
    if origin is collections.abc.Callable:
        return Callables("a function")
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is None and isinstance(annotation, type) and annotation not in (Any, int, object):
        word = annotation.__name__
        return Instances(f"a {word.lower() if word.istitle() else word}", annotation)
    return None


def _annotated(annotation: Any, *metadata: Any) -> Kind | None:
    for word in metadata:
        if isinstance(word, Kind):
            return word
        if isinstance(word, str) and (kind := kind_of(annotation)) is not None:
            inner = {"kind": dataclasses.replace(kind.kind, expected=word)} if isinstance(kind, OrNone) else {}
            return dataclasses.replace(kind, expected=word, **inner)
    return kind_of(annotation)


def _union(parts: tuple[Any, ...]) -> Kind | None:
    kinds = tuple(kind_of(part) for part in parts if part is not type(None))
    known = tuple(kind for kind in kinds if kind is not None)
    if len(known) < len(kinds):
        return None
    either = known[0]
    if len(known) > 1:
        words = [_listed(kind.choices) if isinstance(kind, Names) else kind.expected for kind in known]
        either = Either(f"{', '.join(words[:-1])} or {words[-1]}", known)
    return OrNone(either.expected, either) if type(None) in parts else either


def _listed(choices: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, choices))


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, Kind]:
    """Return the sets of a function's arguments by name, as far as they are known."""
    hints = typing.get_type_hints(function, include_extras=True)
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        is_one = parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        kind = kind_of(hints[name]) if is_one and name in hints else None
        if kind is not None:
            kinds[name] = kind
    return kinds


def check(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check named arguments against the annotations of a function.

    Raises
    ------
    ValueError, TypeError
        For the first argument that does not belong to its set.
    """
    for name, kind in _kinds(function).items():
        if name in arguments:
            kind.check(name, arguments[name])


def checked(function: _Function) -> _Function:
    """Check the arguments of a function at each call, which takes a few microseconds.

    >>> @checked
    ... def sample(num_samples: PositiveInteger, mode: typing.Literal["mean", "draw"] = "draw") -> int:
    ...     return num_samples
    >>> sample(2, mode="median")
    Traceback (most recent call last):
    ...
    ValueError: mode: found 'median', expected one of 'mean', 'draw'
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(_plain, args)), {name: _plain(value) for name, value in kwargs.items()}
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError:  # the call below raises it with Python's own message, which names what is missing
            arguments = _given(signature, args, kwargs)
        check(function, arguments)
        return function(*args, **kwargs)

    return cast(_Function, call)


def _given(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call that is not complete; one of them may stand in the place of two."""
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        return {}
    return {name: value for name, value in given.items() if value is not None}


def _plain(value: Any) -> Any:
    """Convert a NumPy number to a Python number, which files can hold and functions expect."""
    return value.item() if isinstance(value, (np.number, np.bool_)) else value


def checked_constructor(cls: type) -> None:
    """Check the arguments of a class's own constructor, also when a subclass calls it."""
    if "__init__" in vars(cls):
        cls.__init__ = checked(cls.__init__)  # type: ignore[misc]
