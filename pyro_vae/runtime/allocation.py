"""A limit on the memory that a block of code may allocate.

A recipe may come from a stranger, and a short one can ask for a network of 10⁹ units. The file of weights tells the
true size of the program: n tensors of S bytes in all. Building the program allocates these and little else. So every
operation of torch first runs *without values*, which gives the size of its result. The operation is refused if

* it creates a tensor and all tensors created so far exceed 2 S bytes or 4 n in number, or
* it computes a tensor of more than 2 S bytes from others.

The programs and parts in the tests create at most 1.1 S bytes in 1.4 n tensors. Both limits are raised a little, by
4 MiB and 64 tensors, for the sake of small programs. Buffers that no file holds may exceed them, such as the mask of an
autoregressive prior over thousands of codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

__all__ = ["BoundedAllocation", "TooLargeError"]

_SPARE_BYTES, _SPARE_TENSORS = 4 << 20, 64


class TooLargeError(ValueError):
    """Raised before an allocation beyond the limit."""


class BoundedAllocation(TorchDispatchMode):
    """Refuse to allocate much more than ``tensors`` take, on any device, inside a ``with`` block.

    Raises
    ------
    TooLargeError
        Before an operation that would exceed the limit.

    Examples
    --------
    >>> with BoundedAllocation([torch.zeros(10)]):
    ...     torch.zeros(10**9)
    Traceback (most recent call last):
    ...
    pyro_vae.runtime.allocation.TooLargeError: found 4000 MB to be allocated, expected at most 4 MB: twice ...
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        sizes = [_num_bytes(tensor) for tensor in tensors]
        self.max_bytes = 2 * sum(sizes) + _SPARE_BYTES
        self.max_tensors = 4 * len(sizes) + _SPARE_TENSORS
        self.num_bytes = self.num_tensors = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch would take a second to load its compiler and find that out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(result.alias_info is not None for result in func._schema.returns):  # a view, or in place
            return func(*args, **kwargs)
        is_new = not any(isinstance(value, Tensor) for value in tree_iter((args, kwargs)))
        try:
            foreseen = func(*tree_map(_without_values, args), **tree_map(_without_values, kwargs))
        except Exception:  # the size of the result depends on values, or the call is wrong: the real run tells which
            result = func(*args, **kwargs)
            self._count(result, is_new)
            return result
        self._count(foreseen, is_new)
        return func(*args, **kwargs)

    def _count(self, result: Any, is_new: bool) -> None:
        num_bytes = sum(
            value.numel() * value.element_size() for value in tree_iter(result) if isinstance(value, Tensor)
        )
        if is_new:
            self.num_bytes += num_bytes
            self.num_tensors += 1
        if max(num_bytes, self.num_bytes) > self.max_bytes:
            raise TooLargeError(
                f"found {max(num_bytes, self.num_bytes) / 1e6:.0f} MB to be allocated, expected at most "
                f"{self.max_bytes / 1e6:.0f} MB: twice the tensors that are to be there"
            )
        if self.num_tensors > self.max_tensors:
            raise TooLargeError(
                f"found more than {self.max_tensors} tensors to be made, expected at most {self.max_tensors}"
            )


def _num_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, or those it had before a cast to a shorter type."""
    return tensor.numel() * max(tensor.element_size(), torch.get_default_dtype().itemsize)


def _without_values(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
