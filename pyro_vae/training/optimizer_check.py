"""Whether the state of an optimiser and its scheduler, as read from a file, is one that this run's can be in.

Nothing in torch checks what goes into an optimiser: a slot of another shape is written past its end by a fused kernel,
one that is missing starts from zero without a word.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.training.plain import LARGEST_COUNT, as_json, check_form, described, keys_kept, short

__all__ = [
    "check_groups",
    "check_scheduler",
    "check_slots",
    "slots_of",
]


_MOVED_IN_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")
_MOVED_IN_CYCLES = ("betas", "momentum")  # by the schedulers of torch that have ``cycle_momentum``


# Of torch's own schedulers: what changes in a run, or follows the rate that it was begun with.
_MOVED_IN_SCHEDULERS = (
    "last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "base_lrs", "max_lrs",
    "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter",
)  # fmt: skip


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
    late = {index: described(parameter) for index, parameter in enumerate(parameters)}
    for index, found in slots.items():
        if index not in expected:
            raise ValueError(f"{source}: optimizer: found slots of parameter {index}, expected at most {len(expected)}")
        for name in {**expected[index], **found}:
            has, wanted = (described(each[index].get(name)) for each in (slots, expected))
            is_late = name not in expected[index] and has == late.get(index)
            if has != wanted and not is_late:
                raise ValueError(
                    f"{source}: optimizer: slot {name!r} of parameter {index}: found {has}, expected {wanted}"
                )
            slot = found.get(name)
            if name == "step" and isinstance(slot, Tensor) and not ((slot >= 0) & (slot <= LARGEST_COUNT)).all():
                raise ValueError(
                    f"{source}: optimizer: slot 'step' of parameter {index}: found {slot.tolist()}, expected a count"
                )


def check_groups(source: object, found: Any, expected: list[dict[str, Any]], scheduler: Any) -> None:
    """Refuse an optimiser's groups that differ from its own in more than the numbers that schedulers move.

    A scheduler that is not torch's may move any number.

    Raises
    ------
    ValueError
        For the first that differs.
    """
    cycles = any(getattr(part, "cycle_momentum", False) for part in _parts(scheduler))
    moved = (*_MOVED_IN_GROUPS, *_MOVED_IN_CYCLES * cycles) if _is_known(scheduler) else None
    check_form(f"{source}: optimizer: param_groups", found, as_json(expected), moved)
    for group, own in zip(found, expected, strict=True):
        if group["params"] != own["params"]:
            raise ValueError(f"{source}: optimizer: params: found {short(group['params'])}, expected {own['params']}")
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
    check_form(f"{source}: scheduler", found, as_json(keys_kept(scheduler.state_dict())), moved)


def _is_known(scheduler: Any) -> bool:
    """Whether a scheduler, and those within it, are torch's own, or there is none."""
    return all(type(part).__module__.startswith("torch.") for part in _parts(scheduler))


def _parts(scheduler: Any) -> list[Any]:
    return [] if scheduler is None else [scheduler, *getattr(scheduler, "_schedulers", [])]
