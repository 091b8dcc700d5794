"""Whether the state of a run, as read from a file, is one that this run can be in.

Nothing checks what goes into an optimiser: a slot of another shape is written past its end by a fused kernel, one that
is missing starts from zero without a word. So all of a state is compared, before any of it is put anywhere, with what
the run itself has at its beginning: the weights, the optimiser's slots, groups and flags, the scheduler's numbers, the
generators, and a position in training that its own records bear out.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "check_form",
    "check_generators",
    "check_groups",
    "check_position",
    "check_scheduler",
    "check_slots",
    "keys_kept",
    "slots_of",
]

_MOVED_IN_GROUPS = ("lr", "initial_lr", "betas", "momentum", "max_lr", "min_lr", "max_momentum", "base_momentum")
# Of torch's own schedulers: what changes in a run, or follows the rate that it was begun with.
_MOVED_IN_SCHEDULERS = (
    "last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "base_lrs", "max_lrs",
    "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter",
)  # fmt: skip
_LARGEST = 2**53  # of a count; up to it, counts are exact as floats


def slots_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Return the slots that an optimiser keeps for each parameter, by the parameter's number in its ``state_dict``.

    A copy of the optimiser, with copies of its parameters, takes one step down a gradient of zeros.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> {name: tuple(slot.shape) for name, slot in slots_of(torch.optim.Adam([weight]))[0].items()}
    {'step': (), 'exp_avg': (2,), 'exp_avg_sq': (2,)}
    """
    own = {name: value for name, value in vars(optimizer).items() if name != "step"}  # patched by a scheduler, if there
    own |= {name: OrderedDict() for name in own if name.endswith("_hooks")}
    twin = object.__new__(type(optimizer))
    vars(twin).update(copy.deepcopy(own))
    for group in twin.param_groups:
        for parameter in group["params"]:
            zeros = torch.zeros_like(parameter)
            parameter.grad = zeros.to_sparse() if isinstance(twin, torch.optim.SparseAdam) else zeros
    step: Callable[..., Any] = type(twin).step
    devices = {p.device for group in twin.param_groups for p in group["params"] if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        getattr(step, "__wrapped__", step)(twin)  # without the hooks of every optimiser in the process
    return twin.state_dict()["state"]


def check_slots(
    source: object,
    slots: Mapping[int, Mapping[str, Any]],
    expected: Mapping[int, Mapping[str, Any]],
    listed: Any,
    parameters: Sequence[Tensor] = (),
) -> None:
    """Refuse slots of other names, shapes or types than the optimiser's own.

    A parameter that never had a gradient has none. One more that only a later step makes has the shape and type of its
    own in ``parameters``. ``listed`` are the numbers of those that have some; ``None`` in a file of before, which says
    nothing of it.

    Raises
    ------
    ValueError
        For the first that differs.
    """
    if listed is not None and (not isinstance(listed, list) or listed != sorted(slots)):
        raise ValueError(f"{source}: optimizer: found slots of the parameters {sorted(slots)}, expected {listed!r}")
    late = {index: _described(parameter) for index, parameter in enumerate(parameters)}
    for index, found in slots.items():
        if index not in expected:
            raise ValueError(f"{source}: optimizer: found slots of parameter {index}, expected at most {len(expected)}")
        for name in {**expected[index], **found}:
            described = [_described(each[index].get(name)) for each in (slots, expected)]
            is_late = name not in expected[index] and described[0] == late.get(index)
            if described[0] != described[1] and not is_late:
                raise ValueError(
                    f"{source}: optimizer: slot {name!r} of parameter {index}: found {described[0]}, expected "
                    f"{described[1]}"
                )
            slot = found.get(name)
            if name == "step" and isinstance(slot, Tensor) and not ((slot >= 0) & (slot <= _LARGEST)).all():
                raise ValueError(
                    f"{source}: optimizer: slot 'step' of parameter {index}: found {slot.tolist()}, expected a count"
                )


def _described(slot: Any) -> str:
    if isinstance(slot, Tensor):
        return f"{tuple(slot.shape)} of {slot.dtype}"
    return "nothing" if slot is None else type(slot).__name__


def check_groups(source: object, found: Any, expected: list[dict[str, Any]], scheduler: Any) -> None:
    """Refuse an optimiser's groups that differ from its own in more than the numbers that schedulers move.

    A scheduler that is not torch's may move any number.

    Raises
    ------
    ValueError
        For the first that differs.
    """
    moved = _MOVED_IN_GROUPS if _is_known(scheduler) else None
    check_form(f"{source}: optimizer: param_groups", found, _as_json(expected), moved)
    for group, own in zip(found, expected, strict=True):
        if group["params"] != own["params"]:
            raise ValueError(f"{source}: optimizer: params: found {_short(group['params'])}, expected {own['params']}")
    for group in found:
        if not all(0 <= beta < 1 for beta in group.get("betas", ())):
            raise ValueError(f"{source}: optimizer: betas: found {group['betas']}, expected numbers in [0, 1)")


def check_scheduler(source: object, found: Any, scheduler: Any) -> None:
    """Refuse a scheduler's state that differs from its own in more than the numbers that move with the steps.

    Of a scheduler that is not torch's any number may be another.

    Raises
    ------
    ValueError
        For the first that differs.
    """
    moved = _MOVED_IN_SCHEDULERS if _is_known(scheduler) else None
    check_form(f"{source}: scheduler", found, _as_json(keys_kept(scheduler.state_dict())), moved)


def _is_known(scheduler: Any) -> bool:
    """Whether a scheduler, and those within it, are torch's own, or there is none."""
    parts = [] if scheduler is None else [scheduler, *getattr(scheduler, "_schedulers", [])]
    return all(type(part).__module__.startswith("torch.") for part in parts)


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
            raise ValueError(f"{name}: found {_short(found)}, expected the keys {_short(sorted(expected))}")
        for key in sorted(found.keys() ^ expected.keys()):
            was, has = ("one", "none") if key in found else ("none", "one")
            raise ValueError(f"{name}: key {key!r}: found {was}, expected {has}")
        for key, value in expected.items():
            own = is_free or (moved is not None and key in moved)
            check_form(f"{name}: {key}", found[key], value, moved, own)
    elif isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            raise ValueError(f"{name}: found {_short(found)}, expected a list of {len(expected)}")
        for index, value in enumerate(expected):
            check_form(f"{name}[{index}]", found[index], value, moved, is_free)
    elif not (_is_one_kind(found, expected) if is_free else _is_equal(found, expected)):
        raise ValueError(f"{name}: found {_short(found)}, expected {'such as ' * is_free}{_short(expected)}")


def _is_equal(found: Any, expected: Any) -> bool:
    return found == expected and isinstance(found, bool) == isinstance(expected, bool)


def _is_one_kind(found: Any, expected: Any) -> bool:
    if type(expected) not in (int, float):
        return type(found) is type(expected)
    if type(expected) is int:
        return _is_number(found) and min(expected, 0) <= found <= _LARGEST  # a count
    return _is_number(found) or (found == expected and type(found) is float)  # one that is infinite at first


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def keys_kept(value: Any) -> Any:
    """Write a dictionary whose keys are not strings, such as the milestones of a schedule, so that JSON keeps them."""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: keys_kept(item) for key, item in value.items()}
        return {"items": [[key, item] for key, item in value.items()]}
    return [keys_kept(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


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
        if state is None or owner not in expected or _described(state) != _described(expected[owner]):
            wanted = _described(expected.get(owner))
            raise ValueError(f"{source}: {name}.{owner}: found {_described(state)}, expected {wanted}")
        try:
            torch.Generator("cuda" if owner == "cuda" else "cpu").set_state(state)
        except RuntimeError as error:
            raise ValueError(f"{source}: {name}.{owner}: found no state of a generator: {error}") from error


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
        raise ValueError(f"{source}: position: found {_short(keys)}, expected {', '.join(counts)} and seconds")
    for name, value in position.items():
        if not (_is_number(value) and value >= 0 if name == "seconds" else _is_count(value)):
            kind = "seconds" if name == "seconds" else "a count"
            raise ValueError(f"{source}: position: {name}: found {_short(value)}, expected {kind}")
    if not isinstance(records, list):
        raise ValueError(f"{source}: records: found {_short(records)}, expected a list")
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
        "step": (_is_count, "a count"),
        "learning_rate": (_is_number, "a number"),
        "seconds": (_is_number, "a number"),
    }
    kinds |= dict.fromkeys(("train_bound", "train_loss"), (_is_number, "a number"))
    kinds |= dict.fromkeys(("valid_bound", "valid_loss"), (lambda v: v is None or _is_number(v), "a number or null"))
    if not isinstance(record, dict):
        raise ValueError(f"{name}: found {_short(record)}, expected a record")
    for key, (is_right, expected) in kinds.items():
        if key not in record or not is_right(record[key]):
            raise ValueError(f"{name}: {key}: found {_short(record.get(key))}, expected {expected}")
    for key, value in record.items():
        if key not in kinds and not (value is None or isinstance(value, (bool, str)) or _is_number(value)):
            raise ValueError(f"{name}: {key}: found {_short(value)}, expected plain data")
