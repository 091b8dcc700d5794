"""Change a graph of tensor operations before it is compiled; it computes the same.

=====================  ==========================================================================================
Pass                   What it is for (median time without it, of that with it; one CPU thread)
=====================  ==========================================================================================
``add_biases_apart``   a step of the VAE 784-400-50 with 20, 100, 256 images 1.04, 1.01, 1.01 (two threads)
``merge``              ``log_likelihood`` of a ladder 1.19, its training step 1.05
``add_biases_later``   ``log_likelihood`` 1.06 to 1.13, a step of IWAE with 50 particles 1.03
``separate_outputs``   gradients that are clipped in place must not share memory
=====================  ==========================================================================================
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = ["add_biases_apart", "add_biases_later", "merge", "separate_outputs"]

_aten = torch.ops.aten


def merge(graph: Graph) -> None:
    """Compute once what is computed twice, such as the way down that a ladder's model and guide share."""
    # a normal draw fills memory in place; as a function it lets the rest be merged
    for node in graph.find_nodes(op="call_function", target=_aten.normal_.default):
        (filled,) = node.all_input_nodes
        if filled.target is _aten.empty.memory_format and len(filled.users) == 1:
            node.target = _aten.normal_functional.default
    schemas = (getattr(node.target, "_schema", None) for node in graph.nodes)
    if any(schema is not None and schema.is_mutable for schema in schemas):
        return  # what is read twice may have changed in between
    seen: dict[tuple[Any, str, str], Node] = {}
    for node in graph.nodes:
        is_draw = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "call_function" and not is_draw:
            first = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def separate_outputs(graph: Graph) -> None:
    """Give each output memory of its own, so that one can be changed in place, as clipping does."""
    output = graph.output_node()
    nodes: Any = output.args[0]
    seen: set[Node] = set()
    apart = []
    for node in nodes:
        base = node
        while base.op == "call_function" and getattr(base.target, "is_view", False):
            (base, *_) = base.all_input_nodes
        if base in seen or base.op == "placeholder":
            with graph.inserting_before(output):
                node = graph.call_function(_aten.clone.default, (node,))
        seen.add(base)
        apart.append(node)
    output.args = (apart,)


def add_biases_later(graph: Graph) -> None:
    """Add the bias of a layer with several batch dimensions after its product, where the output is next read.

    Torch copies the bias to every row first, for the product to be added to. Applies only when a view follows;
    otherwise TorchInductor fuses the bias again.
    """
    for layer in graph.find_nodes(op="call_function", target=_aten.addmm.default):
        (view, *others) = layer.users
        nodes: Any = layer.args
        bias, rows, weight = nodes
        is_view = view.target in (_aten._unsafe_view.default, _aten.view.default)
        if others or not is_view or layer.kwargs or view.meta["val"].shape[-1:] != bias.meta["val"].shape:
            continue
        with graph.inserting_after(view):
            total = graph.call_function(_aten.add.Tensor, (view, bias))
        with graph.inserting_before(layer):
            product = graph.call_function(_aten.mm.default, (rows, weight))
        product.meta, total.meta = layer.meta, view.meta
        view.replace_all_uses_with(total, delete_user_cb=lambda user, total=total: user is not total)
        layer.replace_all_uses_with(product)
        graph.erase_node(layer)


def add_biases_apart(graph: Graph) -> None:
    r"""Add the bias of a layer in the kernel that next reads the output, for graphs on a CPU.

    There torch copies the bias to every row first. TorchInductor would join a product and a sum to one such operation
    again, but not a product and a difference, so it is given :math:`xW^\top - (-b)`.
    """
    for layer in graph.find_nodes(op="call_function", target=_aten.addmm.default):
        nodes: Any = layer.args
        bias, rows, weight = nodes
        if layer.kwargs or bias.meta["val"].shape != layer.meta["val"].shape[-1:]:
            continue
        with graph.inserting_before(layer):
            product = graph.call_function(_aten.mm.default, (rows, weight))
            minus = graph.call_function(_aten.neg.default, (bias,))
            total = graph.call_function(_aten.sub.Tensor, (product, minus))
        product.meta, minus.meta, total.meta = layer.meta, bias.meta, layer.meta
        layer.replace_all_uses_with(total)
        graph.erase_node(layer)
