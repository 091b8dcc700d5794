"""Whether the state of a run, as read from a file, is one that this run can be in.

Nothing checks what goes into an optimiser: a slot of another shape is written past its end by a fused kernel, one that
is missing starts from zero without a word. So all of a state is compared, before any of it is put anywhere, with what
the run itself has at its beginning: the weights, the optimiser's slots, groups and flags, the scheduler's numbers, the
generators, and a position in training that its own records bear out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.training.plain import described, is_count, is_number, short

__all__ = [
    "check_facts",
    "check_generators",
    "check_position",
    "refuse_another",
]


_ROWS = ("data", "valid")  # digests of some of their rows, see pyro_vae.data.same_calls
_LATER = ("program", "lr", *_ROWS)  # what the runs of older versions do not tell; programs are compared part by part


def check_generators(source: object, name: str, states: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse what is no state of the generators that the run draws from.

    A run may be taken up on another device: of those in the file only the ones that are needed have to be right. A
    loader's own generators are needed where it has any.

    Raises
    ------
    ValueError
        For the first that is none.
    """
    of_loaders = {owner for owner in expected.keys() | states.keys() if owner.startswith("loader_")}
    for owner in sorted({"cpu", *of_loaders, *(expected.keys() & states.keys())}):
        state = states.get(owner)
        if state is None or owner not in expected or described(state) != described(expected[owner]):
            wanted = described(expected.get(owner))
            raise ValueError(f"{source}: {name}.{owner}: found {described(state)}, expected {wanted}")
        try:
            torch.Generator("cuda" if owner == "cuda" else "cpu").set_state(state)
        except RuntimeError as error:
            raise ValueError(f"{source}: {name}.{owner}: found no state of a generator: {error}") from error


def refuse_another(*paths: Path) -> None:
    """Refuse to begin a run where there are files of another one, of which any may be there."""
    if any(path.exists() for path in paths):
        raise FileExistsError(
            f"checkpoint: found another run in {paths[0].parent}, expected resume=True or a new folder"
        )


def check_facts(path: Path, document: Any, facts: Mapping[str, Any], expected: int) -> None:
    """Refuse what is no run's document in the expected format, or that of a run with other facts; warn of other data.

    Raises
    ------
    ValueError
        If so.
    """
    if not isinstance(document, dict) or not isinstance(document.get("facts"), dict):
        raise ValueError(f"{path}: not the state of a training run: found {str(document)[:100]}")
    found, form = document["facts"], document.get("format")
    if type(form) is not int or form != expected:
        raise ValueError(f"{path}: found a run in format {form!r}, expected {expected}: begin it anew")
    for name, value in facts.items():
        before = found.get(name)
        if before == value or name == "program" or (name in _LATER and name not in found):
            continue
        if name in _ROWS and None not in (value, before):
            text = f"{name}: found other rows than those of the run in {path.parent}"
            warnings.warn(text, UserWarning, stacklevel=6)
            continue
        shown = [given if name not in _ROWS else "none" if given is None else "some" for given in (value, before)]
        raise ValueError(f"{name}: found {shown[0]}, expected {shown[1]} as in the run in {path.parent}")


def check_position(source: object, position: Any, records: Any) -> None:
    """Refuse a position in training that is none, or that the records of its epochs do not lead to.

    Raises
    ------
    ValueError
        If so.
    """
    counts = ("epoch", "step", "epoch_step", "count")
    if not isinstance(position, dict) or position.keys() != {*counts, "seconds"}:
        keys = sorted(position) if isinstance(position, dict) else position
        raise ValueError(f"{source}: position: found {short(keys)}, expected {', '.join(counts)} and seconds")
    for name, value in position.items():
        if not (is_number(value) and value >= 0 if name == "seconds" else is_count(value)):
            kind = "seconds" if name == "seconds" else "a count"
            raise ValueError(f"{source}: position: {name}: found {short(value)}, expected {kind}")
    if not isinstance(records, list):
        raise ValueError(f"{source}: records: found {short(records)}, expected a list")
    for index, record in enumerate(records):
        _check_record(f"{source}: records[{index}]", index + 1, record)
    epoch_step, count = position["epoch_step"], position["count"]
    done = records[-1]["step"] if records else 0
    if position["epoch"] != len(records):
        raise ValueError(f"{source}: position: epoch: found {position['epoch']}, expected {len(records)} as recorded")
    if position["step"] != done + epoch_step:
        raise ValueError(f"{source}: position: step: found {position['step']}, expected {done + epoch_step}")
    if not epoch_step <= count or (count == 0) != (epoch_step == 0):
        raise ValueError(
            f"{source}: position: count: found {count} data in {epoch_step} steps, expected one each or more"
        )


def _check_record(name: str, epoch: int, record: Any) -> None:
    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "epoch": (lambda value: type(value) is int and value == epoch, str(epoch)),
        "step": (is_count, "a count"),
        "learning_rate": (is_number, "a number"),
        "seconds": (is_number, "a number"),
    }
    kinds |= dict.fromkeys(("train_bound", "train_loss"), (is_number, "a number"))
    kinds |= dict.fromkeys(("valid_bound", "valid_loss"), (lambda v: v is None or is_number(v), "a number or null"))
    if not isinstance(record, dict):
        raise ValueError(f"{name}: found {short(record)}, expected a record")
    for key, (is_right, expected) in kinds.items():
        if key not in record or not is_right(record[key]):
            raise ValueError(f"{name}: {key}: found {short(record.get(key))}, expected {expected}")
    for key, value in record.items():
        if key not in kinds and not (value is None or isinstance(value, (bool, str)) or is_number(value)):
            raise ValueError(f"{name}: {key}: found {short(value)}, expected plain data")
