"""Plain data of a run, as JSON holds them, and the comparison of their form with what a run has."""

from __future__ import annotations

import json
from collections import Counter
from types import FunctionType
from typing import Any

from torch import Tensor

__all__ = [
    "check_form",
    "keys_kept",
]


LARGEST_COUNT = 2**53  # of a count; up to it, counts are exact as floats


def described(slot: Any) -> str:
    if isinstance(slot, Tensor):
        return f"{tuple(slot.shape)} of {slot.dtype}"
    return "nothing" if slot is None else type(slot).__name__


def check_form(name: str, found: Any, expected: Any, moved: tuple[str, ...] | None, is_free: bool = False) -> None:
    """Refuse plain data of another form than ``expected``, or of other values but under the keys in ``moved``.

    Values of one form are dictionaries of the same keys, lists of the same length, finite numbers, and other values of
    one type. ``moved=None`` lets every value be another.

    Raises
    ------
    ValueError
        For the first that differs.
    """
    is_free = is_free or moved is None
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            raise ValueError(f"{name}: found {short(found)}, expected the keys {short(sorted(expected))}")
        for key in sorted(found.keys() ^ expected.keys()):
            was, has = ("one", "none") if key in found else ("none", "one")
            raise ValueError(f"{name}: key {key!r}: found {was}, expected {has}")
        for key, value in expected.items():
            own = is_free or (moved is not None and key in moved)
            check_form(f"{name}: {key}", found[key], value, moved, own)
    elif isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            raise ValueError(f"{name}: found {short(found)}, expected a list of {len(expected)}")
        for index, value in enumerate(expected):
            check_form(f"{name}[{index}]", found[index], value, moved, is_free)
    elif not (_is_one_kind(found, expected) if is_free else _is_equal(found, expected)):
        raise ValueError(f"{name}: found {short(found)}, expected {'such as ' * is_free}{short(expected)}")


def _is_equal(found: Any, expected: Any) -> bool:
    return found == expected and isinstance(found, bool) == isinstance(expected, bool)


def _is_one_kind(found: Any, expected: Any) -> bool:
    if type(expected) not in (int, float):
        return type(found) is type(expected)
    if type(expected) is int:
        return is_number(found) and min(expected, 0) <= found <= LARGEST_COUNT  # a count
    return is_number(found) or (found == expected and type(found) is float)  # one that is infinite at first


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def keys_kept(value: Any) -> Any:
    """Write a dictionary whose keys are not strings, such as the milestones of a schedule, so that JSON keeps them.

    Functions are left out, and those of the run that goes on are kept: ``SWALR`` of torch 2.6 has one.
    """
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: keys_kept(item) for key, item in value.items() if not isinstance(item, FunctionType)}
        return {"items": [[key, item] for key, item in value.items()]}
    return [keys_kept(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def slots_from(tensors: dict[str, Tensor], plain: dict[str, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The optimiser's slots, by parameter and name."""
    slots: dict[int, dict[str, Any]] = {}
    for name, tensor in named(tensors, "optimizer.").items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = tensor.clone()
    for index, values in plain.items():
        slots.setdefault(int(index), {}).update(values)
    return slots


def keys_back(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"items"}:
            return Counter(dict(value["items"]))
        return {key: keys_back(item) for key, item in value.items()}
    return [keys_back(item) for item in value] if isinstance(value, list) else value
