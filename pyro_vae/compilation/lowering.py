"""Take a graph of tensor operations to kernels, by TorchInductor.

Before that, what TorchInductor does not do by itself is done to the graph: on a GPU small layers become kernels of this
package (:mod:`pyro_vae.compilation.products`), on a CPU biases are added in the kernel that reads them
(:mod:`pyro_vae.compilation.passes`). On a CPU the kernels are called from C++ and not from Python. That takes 0.965 of
the time of a step of the VAE 784-400-50 at B = 20, 0.99 at B = 100 and 256, and no longer to compile.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compilation.passes import add_biases_apart
from pyro_vae.compilation.products import fuse_small_products

__all__ = ["Lower", "inductor"]

Lower = Callable[[GraphModule, list[Tensor]], Callable[..., Sequence[Tensor]]]


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile a graph with TorchInductor; it draws from torch's own generators, in the graph's order."""
    options: dict[str, Any] = {"fallback_random": True}
    if inputs[0].is_cuda:
        graph = fuse_small_products(graph, inputs[0].device)
    else:
        add_biases_apart(graph.graph)
        graph.recompile()
        options["cpp_wrapper"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's news of its own parts
        return torch._inductor.compile(graph, list(inputs), options=options)
