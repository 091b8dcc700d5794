"""Write a function of a batch down as one flat graph of tensor operations.

The function is run once on a batch without values. The graph holds what it does to tensors, forward and backward; what
Python does in between, such as effect handlers, happens this once. Its inputs are the batch and every tensor that was
there before: parameters, buffers, a mask. All else is frozen, see :mod:`pyro_vae.compilation.guards`.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyro_vae.compilation.guards import Guards
from pyro_vae.compilation.passes import add_biases_later, merge, separate_outputs
from pyro_vae.data.batch import Arguments, Batch, tensors_in, with_tensors

__all__ = ["Function", "Outputs", "Trace", "UntraceableError", "trace"]

Outputs = Sequence[Any]  # tensors, and None
Function = Callable[[Any], Outputs]  # of a batch


class UntraceableError(Exception):
    """The graph of a function could not be trusted; the message says why."""


class Trace(NamedTuple):
    """``graph(*tensors_in(x), *tensors)`` gives the outputs that are not ``None``: where ``given`` is true."""

    graph: GraphModule
    tensors: list[Tensor]
    given: list[bool]
    guards: Guards


def trace(function: Function, sources: Iterable[Any], x: Batch) -> Trace:
    """Run a function on a batch like ``x``, without values, and return what it does as a graph.

    ``sources`` are the modules and objectives that it runs. Raises ``UntraceableError`` if it reads the value of a
    tensor into Python, changes a Python attribute of its sources, or draws from Python's or NumPy's generator, or if
    the batch holds anything but tensors and plain options. What else torch cannot trace raises torch's own errors.
    """
    _check_options(x)
    sources = tuple(sources)
    before, generators = Guards(sources), _other_generators()
    given: list[bool] = []

    def tensors_alone(*tensors: Tensor) -> list[Tensor]:
        outputs = function(with_tensors(x, tensors))
        given[:] = [output is not None for output in outputs]
        return [output for output in outputs if output is not None]

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    numbers = [(tensor, tensor.detach().clone()) for tensor in before.tensors() if tensor.numel() == 1]
    try:
        with fake, _NoValues(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say, the function says when it runs
            traced = make_fx(tensors_alone)(*map(fake.from_tensor, _distinct(tensors_in(x))))
    finally:
        change = before.first_change()
        before.restore()
        for tensor, value in numbers:  # torch moves these even without values: the counts of batch normalisation
            if not torch.equal(tensor, value):
                tensor.data.copy_(value)
    if change is not None:
        raise UntraceableError(f"it changes as it runs: {change}")
    if _other_generators() != generators:
        raise UntraceableError("it draws from Python's or NumPy's generator")
    graph, tensors = _with_inputs(traced, fake)
    return Trace(graph, tensors, given, Guards(sources, tensors))


def _check_options(x: Batch) -> None:
    """Raise ``UntraceableError`` for an option that cannot be compared with that of the next batch."""
    for value in x.values if isinstance(x, Arguments) else ():
        if value is not None and not isinstance(value, (Tensor, bool, int, float, str)):
            raise UntraceableError(
                f"a batch holds a {type(value).__name__}, expected tensors, numbers, strings and None"
            )


def _distinct(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Return each tensor as an object of its own: the next batch may hold two where this one holds one twice."""
    seen: set[int] = set()
    for tensor in tensors:
        yield tensor.clone() if id(tensor) in seen else tensor
        seen.add(id(tensor))


def _other_generators() -> tuple[Any, ...]:
    numpy: dict[str, Any] = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["key"].tobytes(), numpy["pos"]


def _with_inputs(traced: GraphModule, fake: FakeTensorMode) -> tuple[GraphModule, list[Tensor]]:
    """Make an input of each tensor that the graph holds."""
    graph = traced.graph
    graph.eliminate_dead_code()  # what nothing uses, such as an empty tensor on the CPU, is no input
    inputs: dict[int, Node] = {}
    tensors: list[Tensor] = []
    *_, last = graph.find_nodes(op="placeholder")
    for node in graph.find_nodes(op="get_attr"):
        tensor = getattr(traced, str(node.target))
        if not isinstance(tensor, Tensor) or isinstance(tensor, FakeTensor):
            raise UntraceableError(f"it uses a {type(tensor).__name__} that a run without values left behind")
        if id(tensor) not in inputs:
            with graph.inserting_after(last):
                last = graph.placeholder(f"tensor_{len(tensors)}")
            last.meta["val"] = fake.from_tensor(tensor)
            inputs[id(tensor)] = last
            tensors.append(tensor)
        node.replace_all_uses_with(inputs[id(tensor)])
        graph.erase_node(node)
    merge(graph)
    add_biases_later(graph)
    separate_outputs(graph)
    return GraphModule({}, graph), tensors


class _NoValues(TorchFunctionMode):
    """Refuse to turn a tensor into a Python value: the graph would keep that value for good."""

    readers = frozenset(
        getattr(Tensor, name)
        for name in ("item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.readers:
            raise UntraceableError(f"it reads the value of a tensor in Python, by Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))
