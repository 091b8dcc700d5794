"""A CUDA graph's ways, on a CPU: operations in their order, on memory that stays, with their numbers frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Writes down each operation. What was captured on it is as if it had not been run: nothing is moved.

    ``captured`` counts, and ``replayed`` too. Reading a value into Python raises, as a driver does that captures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.captured, self.replayed = 0, 0

    def capture(self, function: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
        """As :func:`pyro_vae.training.cuda_graph.cuda_graph`."""
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []  # tensors written to, with what was in them
        drawn = torch.get_rng_state()
        with self:
            result = function()
        torch.set_rng_state(drawn)
        for func, _, _, outputs in self.operations:
            for output in tree_leaves(outputs):
                if isinstance(output, Tensor) and output.is_floating_point() and not _aliases(func):
                    output.detach().fill_(torch.nan)  # memory that nothing has been written to
        for tensor, value in reversed(self.before):
            tensor.detach().copy_(value)
        self.captured += 1
        return lambda tape=self.operations: self.replay(tape), result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if _is_written(argument) or "batch_norm" in func.name():  # which writes its statistics, and does not say so
                self.before += [
                    (tensor, tensor.detach().clone()) for tensor in tree_leaves(value) if isinstance(tensor, Tensor)
                ]
        outputs = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, outputs))
        return outputs

    def replay(self, operations: list[tuple[Any, Any, Any, Any]]) -> None:
        self.replayed += 1
        with torch.no_grad():
            for func, args, kwargs, outputs in operations:
                writes = any(map(_is_written, func._schema.arguments))
                if _aliases(func) and not writes:
                    continue  # a view of memory that is there
                found = func(*args, **kwargs)
                if not _aliases(func):
                    for output, value in zip(tree_leaves(outputs), tree_leaves(found), strict=True):
                        if isinstance(output, Tensor):
                            output.copy_(value)


def _aliases(func: Any) -> bool:
    """Whether what an operation returns lies in memory that was there before."""
    return any(value.alias_info is not None for value in func._schema.returns)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
