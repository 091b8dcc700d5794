"""Networks from elsewhere as the parts of a program: an encoder as a posterior, a decoder under a likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.likelihoods import Likelihood
from pyro_vae.runtime.arguments import DataShape
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["DecoderGaussian", "PlainDecoder", "PlainEncoder", "ProbabilityBernoulli", "SecondOutput", "as_module"]

SecondOutput = Literal["logvar", "scale"]


class _Method(nn.Module):
    """A method of a module."""

    def __init__(self, owner: nn.Module, method: str) -> None:
        super().__init__()
        self.owner, self.method = owner, method

    def forward(self, *args: Tensor) -> Any:
        return getattr(self.owner, self.method)(*args)


def as_module(name: str, network: Any) -> nn.Module:
    """Return a module, or a method of one, as a module; ``TypeError`` for other functions."""
    if isinstance(network, nn.Module):
        return network
    owner = getattr(network, "__self__", None)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"{name}: found a function whose parameters are out of reach, expected a module, or a method of one"
        )
    return _Method(owner, network.__name__)


class PlainDecoder(nn.Module):
    """A decoder of ``(B, latent_dim)``, as the network of a likelihood, with any number of leading dimensions."""

    output_shape: tuple[int, ...]

    def __init__(self, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.decoder, self.latent_dim = decoder, latent_dim

    def forward(self, z: Tensor) -> Tensor:
        output = self.checked(self._run(z.reshape(-1, z.shape[-1])))
        return output.unflatten(0, z.shape[:-1])  # (*batch, *output_shape)

    def _run(self, z: Tensor) -> Tensor:
        output = self.decoder(z)
        if isinstance(output, (tuple, list)) and len(output) == 2 and output[0].shape == output[1].shape:
            return torch.stack(tuple(output), 1)
        if not isinstance(output, Tensor):
            raise ValueError(f"decoder: found {_described(output)}, expected a tensor, or two of the same shape")
        return output

    def checked(self, output: Tensor) -> Tensor:
        """Return an output, which may be flat or have more dimensions of 1, as ``(B, *output_shape)``."""
        shape = self.output_shape
        in_rows = (shape, (math.prod(shape),), (*shape[:1], math.prod(shape[1:])))  # the last of two flat tensors
        if _without_ones(output.shape[1:]) not in map(_without_ones, in_rows):
            raise ValueError(
                f"decoder: found an output of shape {tuple(output.shape)}, expected ({len(output)}, "
                f"{', '.join(map(str, shape))}), or as many numbers in a row"
            )
        return output.reshape(len(output), *shape)

    @torch.no_grad()
    def outputs_for_draws(self) -> Tensor:
        """Return the outputs for 16 latents that are drawn from the prior."""
        device, dtype = placement(self)
        z = torch.randn(16, self.latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        try:
            with evaluating(self), seeded(0, device):
                return self._run(z.to(device, dtype))
        except Exception as error:  # somebody's network can raise anything
            raise ValueError(
                f"decoder: found one that fails on latents of shape {tuple(z.shape)}, of latent_dim={self.latent_dim}: "
                f"{error}"
            ) from error


class PlainEncoder(nn.Module):
    """An encoder that returns two tensors, as a posterior."""

    def __init__(self, encoder: nn.Module, latent_dim: int, second: str, flatten: bool) -> None:
        super().__init__()
        self.encoder, self.latent_dim, self.second, self.flatten = encoder, latent_dim, second, flatten

    def forward(self, x: Tensor) -> dist.Distribution:
        output = self.encoder(x.flatten(1) if self.flatten else x)
        if isinstance(output, Tensor):
            is_pair = _without_ones(output.shape[1:]) in ((2 * self.latent_dim,), _without_ones((2, self.latent_dim)))
            output = output.reshape(len(x), 2, self.latent_dim).unbind(1) if is_pair else [output]
        right = isinstance(output, (tuple, list)) and len(output) == 2
        if not right or any(_without_ones(each.shape[1:]) != _without_ones((self.latent_dim,)) for each in output):
            raise ValueError(
                f"found {_described(output)} for {len(x)} data, expected two tensors ({len(x)}, {self.latent_dim}), "
                f"the mean and the {self.second}, or one ({len(x)}, {2 * self.latent_dim})"
            )
        loc, second = (each.reshape(len(x), self.latent_dim) for each in output)
        return dist.Normal(loc, (0.5 * second).exp() if self.second == "logvar" else second).to_event(1)


class _Probabilities(dist.Bernoulli):
    """A Bernoulli by probabilities, of which none is moved."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        one, zero = torch.ones_like(self.probs), torch.zeros_like(self.probs)
        is_white = value > 0.5
        return torch.where(is_white, self.probs, one).log() + (-torch.where(is_white, zero, self.probs)).log1p()


class ProbabilityBernoulli(Likelihood):
    """Black and white pixels, with the network's output as probabilities."""

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        return _Probabilities(probs=parameters[0])


class DecoderGaussian(Likelihood):
    """Real numbers, with the network's two outputs as the mean and the scale."""

    def __init__(self, network: nn.Module | None, data_shape: DataShape, second: SecondOutput) -> None:
        super().__init__(network, data_shape)
        self.second = second

    @property
    def num_outputs(self) -> int:
        return 2

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        loc, second = parameters
        return dist.Normal(loc, (0.5 * second).exp() if self.second == "logvar" else second)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if not isinstance(output, (tuple, list)):
        return f"an output of type {type(output).__name__}"
    shapes = [str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in output]
    return f"{len(output)} outputs ({', '.join(shapes)})" if len(output) > 1 else f"a tensor of shape {shapes[0]}"
