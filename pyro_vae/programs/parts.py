"""The parts of a program: modules whose forward returns a distribution, checked before the first run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.errors import ProgramError
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.runtime.kinds import Sizes
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating

__all__ = [
    "AnyLikelihood",
    "DatumShape",
    "LikelihoodName",
    "Part",
    "Parts",
    "check_layer",
    "check_stands_alone",
    "likelihood_of",
    "result_of",
    "shared_by",
    "sizes_of",
]

LikelihoodName = Literal["bernoulli", "gaussian"]
Part = Annotated[nn.Module, "a module whose forward is a distribution"]
Parts = Annotated[Sequence[nn.Module], "a list of modules, from the data up"]
AnyLikelihood = LikelihoodName | Part
DatumShape = Annotated[
    Sequence[int], Sizes("the shape of one datum, one or more positive integers", count=1, bounded=True)
]


def likelihood_of(
    name: str, latent_dim: int, data_shape: Sequence[int], hidden_dims: Sequence[int], activation: Activation
) -> nn.Module:
    """Return a likelihood by its name, on a fully connected decoder."""
    if name == "bernoulli":
        return Bernoulli(MLP(latent_dim, data_shape, hidden_dims, activation), data_shape)
    decoder = MLP(latent_dim, (2, *data_shape), hidden_dims, activation)
    return Gaussian(decoder, data_shape, scale="decoder", mean="sigmoid")


def check_stands_alone(prior: nn.Module | None) -> None:
    """Raise ``TypeError`` for a prior that shares a part of the guide, in a program without that part."""
    if prior is not None and shared_by(prior):
        raise TypeError(
            f"prior: found {type(prior).__name__}, which runs a posterior on pseudo-inputs, expected a prior that "
            "shares no part of the guide: only VAE has a posterior q(z|x) to share"
        )


def shared_by(prior: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of the guide that a prior shares, by their attribute in the guide."""
    shared: dict[str, nn.Module] = getattr(prior, "shared", {})
    return shared


def sizes_of(name: str, sizes: Any, expected: str, least: int = 1) -> tuple[int, ...]:
    """Return a list of integers, none below ``least``, as a tuple.

    Raises
    ------
    ValueError
        If it is not such a list; the message names what was ``expected``.
    """
    Sizes(expected, least).check(name, sizes)
    return tuple(map(int, sizes))


@torch.no_grad()
def result_of(name: str, part: nn.Module, *inputs: tuple[int, ...]) -> Any:
    """Return the output of a part for one datum, on zeros of the given shapes.

    Raises
    ------
    ProgramError
        If the part fails on them.
    """
    device, dtype = placement(part)
    zeros = [torch.zeros(1, *shape, device=device, dtype=dtype) for shape in inputs]
    try:
        with evaluating(part):
            return part(*zeros)
    except Exception as error:  # a user's part can raise anything
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
    """Return the event shape of a layer's distribution, which a part returned.

    Raises
    ------
    ProgramError
        If it is no distribution, or not of the expected shapes; the message names the part and the layer.
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
