r"""A batch of data that programs take in several arguments.

Pyro hands on whatever ``SVI.step`` is called with,

.. math:: \texttt{svi.step(x, y)} \;\to\; \texttt{model(x, y)}, \; \texttt{guide(x, y)} .

A batch of one argument is a tensor. One of several, by position or by name, is an :class:`Arguments`, which can be
measured, cut and moved like a tensor. Its tensors are the data; all else in it is an option of the programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

__all__ = ["Arguments", "Batch", "as_batch", "call", "tensors_in", "with_tensors"]


class Arguments:
    """The arguments of the programs, by position and by name.

    Its length is that of its first tensor, the number of data.

    Parameters
    ----------
    args, kwargs
        Anything. Tensors are the data; numbers, ``None`` and the like are options.

    Examples
    --------
    >>> batch = Arguments(torch.zeros(5, 2), y=torch.arange(5))
    >>> len(batch), batch[:2]
    (5, Arguments((2, 2), y=(2,)))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    @property
    def values(self) -> tuple[Any, ...]:
        """The arguments, in order."""
        return (*self.args, *self.kwargs.values())

    @property
    def tensors(self) -> list[Tensor]:
        """The arguments that are tensors of one dimension or more, in order."""
        return [value for value in self.values if isinstance(value, Tensor) and value.dim()]

    @property
    def device(self) -> torch.device:
        """The device of the first tensor, the CPU if there is none."""
        return self.tensors[0].device if self.tensors else torch.device("cpu")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor, for messages."""
        return tuple(self.tensors[0].shape) if self.tensors else ()

    def replaced(self, values: Iterable[Any]) -> Arguments:
        """Return arguments of the same positions and names with other values."""
        found = list(values)
        number = len(self.args)
        return Arguments(*found[:number], **dict(zip(self.kwargs, found[number:], strict=True)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Arguments:
        """Return the arguments with all data on a device, and floating point data in ``dtype``.

        Integers and booleans, such as labels, lengths and masks, keep their type. Tensors without dimensions are
        options, and stay as they are.
        """

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.dim():
                return value
            value = value.to(device, non_blocking=True)
            return value.to(dtype) if value.is_floating_point() else value

        return self.replaced(map(moved, self.values))

    def map(self, function: Callable[[Tensor], Any]) -> Arguments:
        """Return the same arguments with a function applied to every tensor that has data along its first dimension."""
        num_data = len(self)

        def applied(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) and value.dim() and len(value) == num_data else value

        return self.replaced(map(applied, self.values))

    def __len__(self) -> int:
        return len(self.tensors[0]) if self.tensors else 0

    def __getitem__(self, rows: slice | Tensor) -> Arguments:
        return self.map(lambda value: value[rows])

    def __str__(self) -> str:
        shown = [_shown(value) for value in self.args]
        shown += [f"{name}={_shown(value)}" for name, value in self.kwargs.items()]
        return ", ".join(shown)

    def __repr__(self) -> str:
        return f"Arguments({self})"


Batch: TypeAlias = Tensor | Arguments


def as_batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
    """Return the arguments of a call as a batch: a tensor alone if it is the only argument."""
    if len(args) == 1 and not kwargs and isinstance(args[0], (Tensor, Arguments)):
        return args[0]
    return Arguments(*args, **kwargs)


def call(program: Callable[..., Any], batch: Batch) -> Any:
    """Call a program with a batch.

    >>> call(max, Arguments(1, 2))
    2
    """
    return program(*batch.args, **batch.kwargs) if isinstance(batch, Arguments) else program(batch)


def tensors_in(batch: Batch) -> list[Tensor]:
    """Return all tensors of a batch, those without dimensions too."""
    values = batch.values if isinstance(batch, Arguments) else [batch]
    return [value for value in values if isinstance(value, Tensor)]


def with_tensors(batch: Batch, tensors: Iterable[Tensor]) -> Batch:
    """Return a batch with other tensors in the places of its own.

    >>> with_tensors(Arguments(torch.zeros(2), "mean"), [torch.zeros(3)])
    Arguments((3,), 'mean')
    """
    new = iter(tensors)
    if not isinstance(batch, Arguments):
        return next(new)
    return batch.replaced([next(new) if isinstance(value, Tensor) else value for value in batch.values])


def _shown(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


_pytree.register_pytree_node(
    Arguments,
    lambda batch: (list(batch.values), (len(batch.args), tuple(batch.kwargs))),
    lambda leaves, context: Arguments(
        *list(leaves)[: context[0]], **dict(zip(context[1], list(leaves)[context[0] :], strict=True))
    ),
)
