"""The parts of a program: modules whose forward returns a distribution, checked before the first run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.errors import ProgramError
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.modules import placement
from pyro_vae.networks import MLP, Activation
from pyro_vae.state import evaluating

__all__ = ["LikelihoodName", "check_layer", "check_parts", "likelihood_of", "result_of"]

LikelihoodName = Literal["bernoulli", "gaussian"]


def likelihood_of(
    name: str, latent_dim: int, data_shape: Sequence[int], hidden_dims: Sequence[int], activation: Activation
) -> nn.Module:
    """A likelihood by its name, on a decoder of fully connected layers.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name == "bernoulli":
        return Bernoulli(MLP(latent_dim, data_shape, hidden_dims, activation), data_shape)
    if name == "gaussian":
        decoder = MLP(latent_dim, (2, *data_shape), hidden_dims, activation)
        return Gaussian(decoder, data_shape, scale="decoder", mean="sigmoid")
    choices = ", ".join(map(repr, get_args(LikelihoodName)))
    raise ValueError(f"likelihood: found {name!r}, expected {choices} or a module")


def check_parts(**parts: Any) -> None:
    """Refuse a part, or a list of parts, that is neither missing nor a module; a likelihood may be a name.

    Raises
    ------
    ValueError
        For a likelihood of an unknown name.
    TypeError
        For anything else that is no module.
    """
    for name, part in parts.items():
        if name == "likelihood" and isinstance(part, str):
            if part not in get_args(LikelihoodName):
                choices = ", ".join(map(repr, get_args(LikelihoodName)))
                raise ValueError(f"likelihood: found {part!r}, expected {choices} or a module")
            continue
        listed = isinstance(part, (list, tuple, nn.ModuleList))
        for index, item in enumerate(part if listed else [part]):
            if not isinstance(item, nn.Module) and (listed or item is not None):
                raise TypeError(
                    f"{name}{f'[{index}]' if listed else ''}: found {type(item).__name__}, expected a module whose "
                    "forward is a distribution"
                )


@torch.no_grad()
def result_of(name: str, part: nn.Module, *inputs: tuple[int, ...]) -> Any:
    """What a part returns for one datum, its inputs being zeros of the given shapes.

    Raises
    ------
    ProgramError
        If it fails on them.
    """
    device, dtype = placement(part)
    zeros = [torch.zeros(1, *shape, device=device, dtype=dtype) for shape in inputs]
    try:
        with evaluating(part):
            return part(*zeros)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = " and ".join(str(shape) for shape in inputs)
        raise ProgramError(
            f"{name}: found {type(part).__name__}, expected a module that takes {shapes}, here in a batch of one: "
            f"{error}"
        ) from error


def check_layer(name: str, layer: str, result: Any, expected: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the event shape that a part gave its layer, once it is a distribution and the shape is as expected.

    Raises
    ------
    ProgramError
        If it is not; the message names the part and the layer.
    """
    if isinstance(result, Tensor) or not hasattr(result, "event_shape"):
        raise ProgramError(
            f"{name}: layer {layer}: found a {type(result).__name__}, expected a distribution: {dist.__name__} has them"
        )
    found = tuple(result.event_shape)
    if expected is not None and found != expected:
        raise ProgramError(
            f"{name}: layer {layer}: found a distribution of event shape {found} and batch shape "
            f"{tuple(result.batch_shape)}, expected the event shape {expected}"
        )
    return found
