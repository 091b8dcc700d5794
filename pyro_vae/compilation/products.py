r"""Compute the linear layers of a small batch by kernels of this package, instead of cuBLAS and what follows it.

A product of 100 rows cannot fill a GPU, and cuBLAS takes what is made for large ones. Where a layer's output is
:math:`xW^\top + b`, with or without a tanh, bias and tanh go into the kernel of the product; in the backward pass one
kernel gives the gradients of x, W and b, see :mod:`pyro_vae.compilation.layer_kernels`.

=============================================  ==============  ==============
Step of the VAE 784-400-50, B = 100, µs        ``"highest"``   ``"high"``
=============================================  ==============  ==============
cuBLAS (float32; TF32)                         103.0           86.2
a kernel for each product (tf32x3)             84.5            --
one for the three gradients (tf32x3; tf32)     72.8            53.5
gradients from those of cuBLAS in float32      5e-7            3.5e-3
=============================================  ==============  ==============

(One H200, torch 2.11; many steps in one CUDA graph, without Adam.) So ``"highest"`` keeps the accuracy of float32, and
``"high"`` and ``"medium"`` that of TF32. The precision is read when a graph is compiled, as ``fit`` does once a run; a
function that is compiled keeps it.

Larger products are left to cuBLAS, and all on other devices and of other types. Before a graph is changed, the kernels
compute each of its layers on random numbers; if one fails or rounds more than it should, a warning says so and the
graph stays as it was.
"""

from __future__ import annotations

import operator
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from pyro_vae.compilation.layers import LAYER, LAYER_BACKWARD, check_kernels

__all__ = ["fuse_small_products", "replace_layers"]

_aten = torch.ops.aten
_MOST_DATA = 256
_MOST_VALUES = 2**17  # of an input or output; those of 100 data, 78,400 at most, are what was measured
_MOST_WEIGHTS = 2**19  # 784 × 400 is 313,600
_MOST_FEATURES = 2048


def fuse_small_products(graph: GraphModule, device: torch.device) -> GraphModule:
    """Return a graph on a CUDA device with its small layers replaced; the graph itself where they cannot be."""
    if torch.version.hip is not None or find_spec("triton") is None:
        return graph
    if torch.cuda.get_device_capability(device) < (8, 0):  # tensor cores that take TF32
        return graph
    try:
        precision = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        replaced = replace_layers(graph, precision)
        check_kernels(replaced.graph, device)
    except Exception as error:  # all that Triton cannot compile or run on this device
        text = next(iter(str(error).splitlines()), "")
        warnings.warn(f"small products are left to cuBLAS: {type(error).__name__}: {text}", UserWarning, stacklevel=2)
        return graph
    return replaced


def replace_layers(graph: GraphModule, precision: str) -> GraphModule:
    """Return a copy of a graph with its small layers replaced, on any device."""
    copy = Graph()
    copy.output(copy.graph_copy(graph.graph, {}))
    places = {node: place for place, node in enumerate(copy.nodes)}
    for product in copy.find_nodes(op="call_function", target=_aten.addmm.default):
        _replace_forward(product, precision)
    for total in copy.find_nodes(op="call_function", target=_aten.sum.dim_IntList):
        _replace_backward(total, places, precision)
    copy.lint()
    return GraphModule(graph, copy)


def _replace_forward(product: Node, precision: str) -> None:
    """Replace ``addmm(bias, x, t(weight))``, and the tanh that alone reads it."""
    nodes: Any = product.args
    bias, x, weight = nodes[0], nodes[1], _transposed(nodes[2])
    if (
        weight is None
        or product.kwargs
        or not _is_small(x, weight)
        or bias.meta["val"].shape != weight.meta["val"].shape[:1]
    ):
        return
    users = list(product.users)
    tanh = len(users) == 1 and users[0].target is _aten.tanh.default
    last = users[0] if tanh else product
    with product.graph.inserting_before(product):
        layer = product.graph.call_function(LAYER, (x, weight, bias, tanh, precision))
    layer.meta = dict(last.meta)
    last.replace_all_uses_with(layer)
    _erase([product, last])


def _replace_backward(total: Node, places: dict[Node, int], precision: str) -> None:
    """Replace ``sum(g, 0)``, ``mm(t(g), x)`` and, where they are, ``mm(g, weight)`` and the derivative of the tanh."""
    nodes: Any = total.args
    g, dims = nodes[0], nodes[1]
    of_x = [user for user in g.users if user.target is _aten.mm.default and user.args[0] is g]
    turned = [user for user in g.users if user.target is _aten.t.default]
    of_w = [user for node in turned for user in node.users if user.target is _aten.mm.default and user.args[0] is node]
    if list(dims) != [0] or nodes[2:] != (True,) or total.kwargs or len(of_w) != 1 or len(of_x) > 1:
        return
    (dw,) = of_w
    x: Any = dw.args[1]
    if not _is_small(x, dw):
        return
    replaced, weight, y = [total, dw], None, None
    if of_x:
        replaced.append(of_x[0])
        weight = _plain(of_x[0].args[1])
        users = list(of_x[0].users)
        if len(users) == 1 and users[0].target is _aten.tanh_backward.default and users[0].args[0] is of_x[0]:
            replaced.append(users[0])
            y = _plain(users[0].args[1])
        if weight.meta["val"].shape != dw.meta["val"].shape:
            return
    first = min(replaced, key=lambda node: places[node])
    needed = [node for node in (g, weight, x, y) if node is not None]
    if any(places.get(node, -1) > places[first] for node in needed) or _is_written(first, replaced):
        return
    graph = total.graph
    with graph.inserting_before(first):
        layer = graph.call_function(LAYER_BACKWARD, (g, weight, x, y, precision))
        dx, new_dw, db = (graph.call_function(operator.getitem, (layer, i)) for i in range(3))
        row = graph.call_function(_aten.unsqueeze.default, (db, 0))
    for node, new in [(total, row), (dw, new_dw), *([(replaced[-1], dx)] if of_x else [])]:
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
    _erase(replaced)


def _plain(node: Node) -> Node:
    """Return the node itself, where it is an alias of another or its transpose's transpose."""
    source: Any = node.args[0] if node.args else None
    if node.target in (_aten.alias.default, _aten.detach.default):  # of new and of older releases of torch
        return _plain(source)
    twice = node.target is _aten.t.default and _transposed(source)
    return twice or node


def _transposed(node: Node) -> Node | None:
    """Return the node that this one is the transpose of, if it is one."""
    source: Any = node.args[0] if node.target is _aten.t.default else None
    return None if source is None else _plain(source)


def _is_small(x: Node, weight: Node) -> bool:
    """Return whether a layer is in float32 and of the sizes that the kernels are for."""
    a, w = x.meta["val"], weight.meta["val"]
    if not a.dtype == w.dtype == torch.float32 or a.device != w.device or not all(isinstance(n, int) for n in a.shape):
        return False
    num_data, most = len(a), max(w.shape)
    few = num_data <= _MOST_DATA and most <= _MOST_FEATURES
    return few and num_data * most <= _MOST_VALUES and w.numel() <= _MOST_WEIGHTS


def _is_written(first: Node, replaced: list[Node]) -> bool:
    """Return whether anything is changed in place from the first of some nodes to the last: those must not move."""
    left, node = set(replaced), first
    while True:
        left.discard(node)
        if not left:
            return False
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            return True
        node = node.next


def _erase(nodes: list[Node]) -> None:
    for node in reversed(list(dict.fromkeys(nodes))):
        node.graph.erase_node(node)
