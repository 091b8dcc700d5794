"""What is done to a graph of tensor operations before it is compiled. None of it changes what the graph computes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

__all__ = ["add_biases_later", "merge", "separate_outputs", "split_at_draws"]

_aten = torch.ops.aten
_PRODUCTS = ("mm.", "addmm.", "bmm.", "baddbmm.", "convolution.")


def merge(graph: Graph) -> None:
    """Compute once what is computed twice, such as the way down that a ladder's model and guide share."""
    graph.eliminate_dead_code()
    for node in graph.find_nodes(op="call_function", target=_aten.normal_.default):
        (filled,) = node.all_input_nodes
        if filled.target is _aten.empty.memory_format and len(filled.users) == 1:
            node.target = _aten.normal_functional.default
    if _writes(graph):
        return
    seen: dict[tuple[Any, str, str], Node] = {}
    for node in graph.nodes:
        if node.op == "call_function" and not _is_draw(node):
            first = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def separate_outputs(graph: Graph) -> None:
    """Give each output memory of its own: whoever changes one in place, as clipping does, changes no other."""
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


def _writes(graph: Graph) -> bool:
    """Whether an operation changes a tensor that was there before."""
    schemas = (getattr(node.target, "_schema", None) for node in graph.nodes)
    return any(schema is not None and schema.is_mutable for schema in schemas)


def _is_draw(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def add_biases_later(graph: Graph) -> None:
    """Add the bias of a layer that has several batch dimensions where its output is next read.

    Torch would copy it to every row first, for the product to be added to. Only where the product is given its batch
    dimensions back is there a place for it: of a bare sum of product and bias TorchInductor would make torch's again.
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


def split_at_draws(graph: Graph) -> tuple[GraphModule, GraphModule]:
    """Split a graph in two, so that what does not depend on random draws need not be computed again for each of them.

    Returns
    -------
    tuple
        ``before(*inputs)`` gives the products of matrices, and convolutions, that no draw enters; ``after(*inputs,
        *products)`` all that ``graph(*inputs)`` does. A graph that writes to tensors is left whole, as the second.
    """
    drawn: set[Node] = set()
    fixed: list[Node] = []
    for node in graph.nodes:
        if _is_draw(node) or any(source in drawn for source in node.all_input_nodes):
            drawn.add(node)
        elif str(node.target).removeprefix("aten.").startswith(_PRODUCTS):
            fixed.append(node)
    if _writes(graph):
        fixed = []
    copies: dict[Node, Node] = {}
    after = Graph()
    after.output(after.graph_copy(graph, copies))
    last = [node for node in after.nodes if node.op == "placeholder"][-1]
    handed: dict[Node, Node] = {}
    for node in fixed:
        with after.inserting_after(last):
            last = handed[node] = after.placeholder(f"product_{len(handed)}")
        last.meta = copies[node].meta
        copies[node].replace_all_uses_with(last)
        after.erase_node(copies[node])
    after.eliminate_dead_code()
    for node, stand_in in list(handed.items()):
        if not stand_in.users:
            after.erase_node(handed.pop(node))
    before, copies = Graph(), {}
    for node in graph.nodes:
        if node.op != "output" and node not in drawn:
            copies[node] = before.node_copy(node, copies.__getitem__)
    before.output([copies[node] for node in handed])
    before.eliminate_dead_code()
    return GraphModule({}, before), GraphModule({}, after)
