"""A linear layer with or without a tanh, and its gradients, as operations that a graph can hold.

On a GPU they are computed by :mod:`pyro_vae.compilation.layer_kernels`, on a CPU by torch, where they serve tests of
graphs. TorchInductor leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

__all__ = ["BY_TORCH", "LAYER", "LAYER_BACKWARD", "check_kernels"]

_LARGEST_ERROR = {"tf32x3": 2e-6, "tf32": 3e-3}  # of a product, relative; found are 3e-7 and 8e-4


@torch.library.custom_op(
    "pyro_vae::layer", mutates_args=(), device_types="cuda",
    schema="(Tensor x, Tensor weight, Tensor bias, bool tanh, str precision) -> Tensor",
)  # fmt: skip
def layer(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool, precision: str) -> Tensor:
    """Return the output of a layer."""
    from pyro_vae.compilation import layer_kernels  # imports Triton

    out, launch = layer_kernels.forward(x, weight, bias, tanh, precision)
    launch.run()
    return out


@layer.register_kernel("cpu")
def _layer_by_torch(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool, precision: str) -> Tensor:
    y = torch.addmm(bias, x, weight.t())
    return y.tanh() if tanh else y


@layer.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool, precision: str) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op(
    "pyro_vae::layer_backward", mutates_args=(), device_types="cuda",
    schema="(Tensor g, Tensor? weight, Tensor x, Tensor? y, str precision) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip
def layer_backward(
    g: Tensor, weight: Tensor | None, x: Tensor, y: Tensor | None, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a layer's input, which is empty without a weight, its weight and its bias."""
    from pyro_vae.compilation import layer_kernels

    gradients, launch = layer_kernels.backward(g, weight, x, y, precision)
    launch.run()
    return gradients


@layer_backward.register_kernel("cpu")
def _layer_backward_by_torch(
    g: Tensor, weight: Tensor | None, x: Tensor, y: Tensor | None, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    dx = g.new_empty(0) if weight is None else g @ weight
    return dx if y is None else torch.ops.aten.tanh_backward(dx, y), g.t() @ x, g.sum(0)


@layer_backward.register_fake
def _(
    g: Tensor, weight: Tensor | None, x: Tensor, y: Tensor | None, precision: str
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dx = g.new_empty(0) if weight is None else g.new_empty(x.shape)
    return dx, g.new_empty(g.shape[1], x.shape[1]), g.new_empty(g.shape[1])


LAYER, LAYER_BACKWARD = torch.ops.pyro_vae.layer.default, torch.ops.pyro_vae.layer_backward.default
BY_TORCH: dict[Any, Any] = {LAYER: _layer_by_torch, LAYER_BACKWARD: _layer_backward_by_torch}


def check_kernels(graph: Graph, device: torch.device) -> None:
    """Compile the kernels of a graph at the same time, and raise ``RuntimeError`` if a result is not right."""
    from pyro_vae.compilation import layer_kernels

    calls = dict(_calls(graph, device))
    make: dict[Any, Any] = {LAYER: layer_kernels.forward, LAYER_BACKWARD: layer_kernels.backward}
    launches = [make[target](*args)[1] for (target, *_), args in calls.items()]
    for launch in launches[:1]:  # before any threads, as it sets Triton up
        launch.compile()
    with ThreadPoolExecutor() as pool:
        list(pool.map(layer_kernels.Launch.compile, launches[1:]))
    for (target, *_), args in calls.items():
        exact = BY_TORCH[target](*(arg.double() if isinstance(arg, Tensor) else arg for arg in args))
        found = target(*args)
        for value, expected in zip(_listed(found), _listed(exact), strict=True):
            error = ((value - expected).norm() / expected.norm().clamp(min=1e-30)).item()
            if not error < _LARGEST_ERROR[args[-1]]:
                raise RuntimeError(f"the kernel of {target} is wrong by {error:.1e} of its size")


def _calls(graph: Graph, device: torch.device) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Return the calls of the kernels in a graph, on random numbers, by what tells them apart."""
    generator = torch.Generator(device).manual_seed(0)
    for target in BY_TORCH:
        for node in graph.find_nodes(op="call_function", target=target):
            shapes = [tuple(arg.meta["val"].shape) if isinstance(arg, Node) else arg for arg in node.args]
            yield (
                (target, *shapes),
                tuple(
                    torch.randn(shape, generator=generator, device=device) if isinstance(shape, tuple) else shape
                    for shape in shapes
                ),
            )


def _listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
