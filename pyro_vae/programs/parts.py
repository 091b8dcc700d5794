"""The parts of a program: modules whose forward returns a distribution, checked before the first run."""

from __future__ import annotations

import operator
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

__all__ = ["LikelihoodName", "check_layer", "check_parts", "likelihood_of", "result_of", "shared_by", "sizes_of"]

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


def check_parts(*, shares: bool = False, **parts: Any) -> None:
    """Refuse a part that is neither missing nor a module; a likelihood is a name or a module, a plural a list of them.

    Unless the program ``shares``, it has no room for a prior that runs a part of the guide.

    Raises
    ------
    ValueError
        For a likelihood of an unknown name.
    TypeError
        For anything else that is no module, or no list of modules, and for a prior that is not the program's.
    """
    a_module = "a module whose forward is a distribution"
    for name, part in parts.items():
        if name == "likelihood":
            choices = ", ".join(map(repr, get_args(LikelihoodName)))
            if isinstance(part, str) and part not in get_args(LikelihoodName):
                raise ValueError(f"likelihood: found {part!r}, expected {choices} or a module")
            if not isinstance(part, (str, nn.Module)):
                raise TypeError(f"likelihood: found {type(part).__name__}, expected {choices} or {a_module}")
        elif name.endswith("s") and part is not None:
            if not isinstance(part, (list, tuple, nn.ModuleList)):
                raise TypeError(f"{name}: found {type(part).__name__}, expected a list of modules, from the data up")
            for index, item in enumerate(part):
                if not isinstance(item, nn.Module):
                    raise TypeError(f"{name}[{index}]: found {type(item).__name__}, expected a module")
        elif not isinstance(part, (nn.Module, type(None))):
            raise TypeError(f"{name}: found {type(part).__name__}, expected {a_module}")
        elif name == "prior" and part is not None and shared_by(part) and not shares:
            raise TypeError(
                f"prior: found {type(part).__name__}, which runs a posterior on pseudo-inputs, expected a prior that "
                "stands alone: of the programs here VAE alone has a posterior q(z|x) to share"
            )


def shared_by(prior: nn.Module) -> dict[str, nn.Module]:
    """The parts of the guide that a prior runs too, by the attribute that holds them there."""
    shared: dict[str, nn.Module] = getattr(prior, "shared", {})
    return shared


def sizes_of(name: str, sizes: Any, expected: str, least: int = 1) -> tuple[int, ...]:
    """A list of integers, none below ``least``, as a tuple.

    Raises
    ------
    ValueError
        If it is no such list; the message says what was ``expected``.
    """
    try:
        found = tuple(operator.index(size) for size in sizes)
        right = not isinstance(sizes, str) and not any(isinstance(size, bool) for size in sizes)
    except TypeError:
        right, found = False, ()
    if not right or not all(size >= least for size in found):
        raise ValueError(f"{name}: found {sizes!r}, expected {expected}")
    return found


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
    except Exception as error:  # a part of someone else's can fail in any way
        shapes = " and ".join(str(shape) for shape in inputs)
        takes = f"takes {shapes}, here in a batch of one" if inputs else "is called without an argument"
        raise ProgramError(
            f"{name}: found {type(part).__name__}, expected a module that {takes}: {type(error).__name__}: {error}"
        ) from error


def check_layer(
    name: str,
    layer: str,
    result: Any,
    expected: tuple[int, ...] | None = None,
    batch_shape: tuple[int, ...] = (1,),
) -> tuple[int, ...]:
    """Return the event shape that a part gave its layer, once it is a distribution of the shapes expected.

    Raises
    ------
    ProgramError
        If it is not; the message names the part and the layer.
    """
    if isinstance(result, Tensor) or not hasattr(result, "event_shape"):
        raise ProgramError(
            f"{name}: layer {layer}: found {type(result).__name__}, expected a distribution: {dist.__name__} has them"
        )
    found, batch = tuple(result.event_shape), tuple(result.batch_shape)
    if batch != batch_shape:
        advice = "; declare the dimensions of one datum with .to_event(n)" if len(batch) > len(batch_shape) else ""
        raise ProgramError(
            f"{name}: layer {layer}: found a distribution of batch shape {batch} and event shape {found} for one "
            f"datum, expected the batch shape {batch_shape}{advice}"
        )
    if expected is not None and found != expected:
        raise ProgramError(
            f"{name}: layer {layer}: found a distribution of event shape {found}, expected the event shape {expected}"
        )
    return found
