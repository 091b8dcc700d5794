"""Sets of objects that an argument may be: instances, functions, lists, devices, arrays and unions of these."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.runtime.foreign import advice
from pyro_vae.runtime.kinds import Floats, Integers, Kind, Names, Numbers, refuse, shown

__all__ = ["Arrays", "Callables", "Data", "Devices", "Either", "Instances", "OrNone", "Sequences"]


@dataclass(frozen=True)
class _Objects(Kind):
    """A set of objects: for another value, the error is a ``TypeError`` and the message shows its class."""

    def check(self, name: str, value: Any) -> None:
        if not self.accepts(value):
            raise TypeError(f"{name}: found {type(value).__name__}, expected {self.expected}")


@dataclass(frozen=True)
class Instances(_Objects):
    """The instances of one class or several; with ``by_value``, messages show a wrong value instead of its class."""

    classes: type | tuple[type, ...]
    by_value: bool = False

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.classes)

    def check(self, name: str, value: Any) -> None:
        if self.by_value and not self.accepts(value):
            raise TypeError(f"{name}: found {shown(value)}, expected {self.expected}")
        super().check(name, value)


@dataclass(frozen=True)
class Callables(_Objects):
    """The callables, except instances of the ``excluded`` classes; ``type`` excludes classes themselves."""

    excluded: tuple[type, ...] = ()

    def accepts(self, value: Any) -> bool:
        return callable(value) and not isinstance(value, self.excluded)


@dataclass(frozen=True)
class Sequences(_Objects):
    """Sequences and lists of modules whose entries all belong to the set ``item``."""

    item: Kind

    def accepts(self, value: Any) -> bool:
        return isinstance(value, (Sequence, nn.ModuleList)) and not isinstance(value, (str, bytes, bytearray))

    def check(self, name: str, value: Any) -> None:
        super().check(name, value)
        for index, item in enumerate(value):
            self.item.check(f"{name}[{index}]", item)


@dataclass(frozen=True)
class Devices(Kind):
    """Devices: with ``present``, those of this machine only; with ``meta``, the one without values too."""

    present: bool = True
    meta: bool = False

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, (str, torch.device)):
            return False
        try:
            device = torch.empty(0, device=value).device if self.present else torch.device(value)
        except (RuntimeError, AssertionError, NotImplementedError):  # torch has all three for a missing device
            return False
        return self.meta or device.type != "meta"


@dataclass(frozen=True)
class Arrays(Kind):
    """Dense tensors and arrays of real numbers, of ``least_dims`` dimensions or more.

    With ``tensors_alone``, arrays are refused. With ``lists``, whatever torch can convert is accepted. With ``meta``,
    the values may be missing.
    """

    least_dims: int = 1
    tensors_alone: bool = False
    lists: bool = False
    meta: bool = False

    def accepts(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return _is_at_hand(value, self.meta) and not value.is_complex() and value.dim() >= self.least_dims
        if isinstance(value, np.ndarray):
            return value.dtype.kind in "biuf" and value.ndim >= self.least_dims and not self.tensors_alone
        if not self.lists:
            return False
        try:
            return self.accepts(torch.as_tensor(value))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return False

    def check(self, name: str, value: Any) -> None:
        if not self.accepts(value):
            raise TypeError(f"{name}: found {shown(value)}, expected {self.expected}{advice(value)}")


def _is_at_hand(x: Tensor, meta: bool = False) -> bool:
    return x.layout is torch.strided and (meta or not x.is_meta) and not x.is_quantized


@dataclass(frozen=True)
class Data(Kind):
    """Everything but sparse, quantised and meta tensors; the content is checked when it is read."""

    def accepts(self, value: Any) -> bool:
        return not isinstance(value, Tensor) or _is_at_hand(value)

    def check(self, name: str, value: Any) -> None:
        if not self.accepts(value):
            refuse(name, value, f"{self.expected}{advice(value)}")


@dataclass(frozen=True)
class Either(Kind):
    """The union of several sets."""

    kinds: tuple[Kind, ...]

    def accepts(self, value: Any) -> bool:
        return any(kind.accepts(value) for kind in self.kinds)

    def check(self, name: str, value: Any) -> None:
        for kind in self.kinds:
            if kind.accepts(value):
                return kind.check(name, value)  # the items of a sequence
            if isinstance(kind, (Integers, Numbers)) and isinstance(value, numbers.Real):
                kind.check(name, value)  # a number that is out of range
        has_names = any(isinstance(kind, Names) for kind in self.kinds)
        if any(isinstance(kind, _Objects) for kind in self.kinds) and not (has_names and isinstance(value, str)):
            takes_data = any(isinstance(kind, Arrays) for kind in self.kinds)
            takes_numbers = any(isinstance(kind, (Floats, Integers, Numbers)) for kind in self.kinds)
            hint = advice(value) if takes_data and not takes_numbers else ""
            raise TypeError(f"{name}: found {type(value).__name__}, expected {self.expected}{hint}")
        refuse(name, value, self.expected)


@dataclass(frozen=True)
class OrNone(Kind):
    """``None`` and another set; messages mention the latter alone."""

    kind: Kind

    def accepts(self, value: Any) -> bool:
        return value is None or self.kind.accepts(value)

    def check(self, name: str, value: Any) -> None:
        if value is not None:
            self.kind.check(name, value)
