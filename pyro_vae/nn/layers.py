"""Parts that the networks share: shapes, activations and initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from pyro_vae.runtime.kinds import Integers, Sizes

__all__ = ["Activation"]

Shape = Annotated[int | Sequence[int], Sizes("positive integers", bounded=True, or_one=True)]
Size = Annotated[int, Integers("positive integers", 1)]
Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}
_SATURATING = ("tanh", "sigmoid", "softplus")


def initialise(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, activation: str | None) -> None:
    """Initialise weights as Glorot does for saturating activations and outputs, as He does for rectifiers; biases at 0.

    Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010; He et al.,
    *Delving deep into rectifiers*, 2015.
    """
    if activation is None or activation in _SATURATING:
        nn.init.xavier_uniform_(layer.weight)
    elif isinstance(layer, nn.ConvTranspose2d):  # torch takes its fan from the wrong end
        fan_in = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
        nn.init.uniform_(layer.weight, -math.sqrt(6 / fan_in), math.sqrt(6 / fan_in))
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def as_shape(shape: Shape) -> tuple[int, ...]:
    """Return a shape, or the length of a vector, as a tuple of Python's integers."""
    return (shape,) if isinstance(shape, int) else tuple(map(int, shape))


def one_tensor(part: nn.Module, output: Any) -> Tensor:
    """Return what a part's network gave, or raise ``ValueError`` unless it is a tensor."""
    if not isinstance(output, Tensor):
        count = f" of {len(output)}" if isinstance(output, (tuple, list)) else ""
        raise ValueError(
            f"{type(part).__name__}: found a network output of type {type(output).__name__}{count}, expected one "
            "tensor, as torch.stack makes of several; pyro_vae.wrap takes networks that return two"
        )
    return output


def check_trailing(network: nn.Module, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless the last dimensions of a network's input have a shape."""
    if tuple(x.shape[x.dim() - len(shape) :]) != shape:
        raise ValueError(
            f"{type(network).__name__}: found an input of shape {tuple(x.shape)}, expected (*batch, "
            f"{', '.join(map(str, shape))})"
        )
