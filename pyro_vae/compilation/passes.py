r"""What is done to a graph of tensor operations before it is compiled. None of it changes what the graph computes.

The density of black and white pixels is a sum over many, and what takes its time is one logarithm for each,

.. math:: \log p(x|z) = \sum_i x_i l_i - \log(1 + e^{l_i})
          = \sum_i \Bigl(\bigl(x_i - \tfrac12\bigr) l_i - \tfrac12 |l_i|\Bigr)
            - \sum_j \log \prod_{i \in j} \bigl(1 + e^{-|l_i|}\bigr) .

The form on the right takes one for a block j of pixels: a product of 16 factors between 1 and 2 cannot overflow. Where
the decoder is sure and right, the first sum is 0 and all is in the second. There :math:`1 + e^{-15}` would round the
last four digits of :math:`e^{-15}` away, so the product is kept as what it has above 1, two factors at a time,

.. math:: (1 + a)(1 + b) = 1 + (a + b + ab) ,

and what is lost in the last step, 1 + c rounded to u, is added to its logarithm: :math:`\log(1 + c) \approx \log u + (c
- (u - 1)) / u`. Numbers of half precision are first made float32, whose range is that of the product.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["add_biases_later", "bernoulli_in_one_pass", "merge", "separate_outputs", "split_at_draws"]

_aten = torch.ops.aten
_PRODUCTS = ("mm.", "addmm.", "bmm.", "baddbmm.", "convolution.")
_BLOCK = 16


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


def bernoulli_in_one_pass(graph: Graph, fake: FakeTensorMode) -> None:
    """Take the logarithm of a block of pixels at once, where a graph sums the densities of Bernoulli's distribution."""
    for total in graph.find_nodes(op="call_function", target=_aten.sum.dim_IntList):
        found = _summed_bernoulli(total)
        if found is None:
            continue
        with fake:
            replaced = total.meta["val"]
            log_prob = functools.partial(_log_prob, num_batch_dims=replaced.dim(), dtype=replaced.dtype)
            terms = make_fx(log_prob)(*(node.meta["val"] for node in found))
        copies: dict[Node, Node] = dict(zip(terms.graph.find_nodes(op="placeholder"), found, strict=True))
        with graph.inserting_before(total):
            new: Any = graph.graph_copy(terms.graph, copies)
        total.replace_all_uses_with(new)
        graph.erase_node(total)
    graph.eliminate_dead_code()


def _summed_bernoulli(total: Node) -> tuple[Node, Node] | None:
    """The logits and the pixels of a sum that is a log-probability of Bernoulli's; ``None`` of another."""
    last: Any = total.args[1]
    (terms,) = total.all_input_nodes
    if list(last) != [-1] or len(total.args) > 2 or total.kwargs:
        return None
    if terms.target in (_aten.view.default, _aten._unsafe_view.default):  # of pixels in rows, which come in a line here
        (terms,) = terms.all_input_nodes
    if terms.target is not _aten.neg.default:
        return None
    (entropy,) = terms.all_input_nodes
    if entropy.target is not _aten.binary_cross_entropy_with_logits.default or entropy.args[2:] != (None, None, 0):
        return None
    logits, x = entropy.all_input_nodes
    shape, batch_shape = (node.meta["val"].shape for node in (entropy, total))
    alike = logits.meta["val"].shape == x.meta["val"].shape == shape and shape[: len(batch_shape)] == batch_shape
    return (logits, x) if alike and len(shape) > len(batch_shape) else None


def _log_prob(logits: Tensor, x: Tensor, num_batch_dims: int, dtype: torch.dtype) -> Tensor:
    """The log-probability of black and white images, ``(*batch)``, nats; see the top of this file."""
    logits, x = logits.flatten(num_batch_dims), x.flatten(num_batch_dims)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    size = logits.abs()  # of gradient 0 at 0, where that of the whole is x - 1/2
    block = math.gcd(logits.shape[-1], _BLOCK)
    excess = torch.exp(-size).unflatten(-1, (block, -1))  # (*batch, block, D / block): neighbours in different blocks
    while block > 1:
        block //= 2
        a, b = excess[..., :block, :], excess[..., block:, :]
        excess = a + b + a * b
    return (((x - 0.5) * logits - 0.5 * size).sum(-1) - _log1p(excess.squeeze(-2)).sum(-1)).to(dtype)


def _log1p(c: Tensor) -> Tensor:
    """The logarithm of 1 + c by vector instructions, which TorchInductor has for log alone."""
    u = 1 + c
    return u.log() + (c - (u - 1)) / u


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
