"""Constraints of parameters as plain data, and back.

A file says by it what its unconstrained values stand for: those of a positive scale are its logarithms.
"""

from __future__ import annotations

from typing import Any

from pyro.distributions import constraints

__all__ = ["constraint_from", "described"]

_PARAMETRIC = {  # by their names in torch: what they are made with
    "greater_than": ("lower_bound",),
    "greater_than_eq": ("lower_bound",),
    "less_than": ("upper_bound",),
    "interval": ("lower_bound", "upper_bound"),
    "half_open_interval": ("lower_bound", "upper_bound"),
}
_PLAIN = {
    name: value
    for name in constraints.__all__
    if isinstance(value := getattr(constraints, name), constraints.Constraint)
}


def described(constraint: Any) -> Any:
    """Return a constraint as plain data: a name, or a list of a name and arguments.

    One that is not known is described by its class alone, and cannot be made again.

    >>> described(constraints.positive), described(constraints.greater_than(2))
    ('positive', ['greater_than', 2.0])
    >>> described(constraints.independent(constraints.unit_interval, 1))
    ['independent', 'unit_interval', 1]
    """
    bounds = vars(constraint)
    if not any(getattr(value, "shape", ()) for value in bounds.values()):
        for name, value in _PLAIN.items():
            if type(constraint) is type(value) and bounds == vars(value):
                return name
    for name, arguments in _PARAMETRIC.items():
        if type(constraint) is getattr(constraints, name):
            values = [getattr(constraint, each) for each in arguments]
            if all(getattr(value, "shape", ()) == () for value in values):
                return [name, *map(float, values)]
    if type(constraint) is constraints.independent:
        return ["independent", described(constraint.base_constraint), constraint.reinterpreted_batch_ndims]
    return repr(constraint)


def constraint_from(description: Any) -> Any:
    """Return the constraint of a description, or ``None`` for one that is not known.

    >>> constraint_from(["independent", "positive", 1]).event_dim
    1
    """
    if isinstance(description, str):
        return _PLAIN.get(description)
    if not isinstance(description, list) or not description or not isinstance(description[0], str):
        return None
    name, *arguments = description
    if name == "independent" and len(arguments) == 2 and type(arguments[1]) is int and arguments[1] >= 0:
        base = constraint_from(arguments[0])
        return None if base is None else constraints.independent(base, arguments[1])
    is_right = name in _PARAMETRIC and len(arguments) == len(_PARAMETRIC[name])
    if is_right and all(type(value) in (int, float) for value in arguments):
        return getattr(constraints, name)(*arguments)
    return None
