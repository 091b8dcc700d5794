r"""The model of the hierarchies of vectors: a Markov chain of Gaussian layers, from the top down to the data.

.. math:: p(x, z_{1:T}) = p(z_T) \prod_{t=2}^T p(z_{t-1}|z_t)\; p(x|z_1)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.parts import AnyLikelihood, check_layer, likelihood_of, result_of, sizes_of
from pyro_vae.programs.program import Program
from pyro_vae.runtime.kinds import Anything, Sizes

__all__ = [
    "Chain",
    "ChainProgram",
    "HiddenDims",
    "check_chain",
    "check_length",
    "made_from_sizes",
    "sizes_from",
]

HiddenDims = Annotated[Sequence[int] | Sequence[Sequence[int]], Anything("one or more lists of positive integers")]
LayerSizes = Annotated[
    Sequence[int], Sizes("the length of each layer from z1 up, one or more positive integers", count=1)
]


class Chain(PyroModule):
    """The generative program: z_T ~ p(z_T), then each layer given the one above, then x ~ p(x|z_1)."""

    def __init__(self, prior: nn.Module, transitions: Sequence[nn.Module], likelihood: nn.Module) -> None:
        super().__init__()
        self.prior, self.transitions, self.likelihood = prior, nn.ModuleList(transitions), likelihood

    def generate(self, num_data: int, x: Tensor | None = None) -> Tensor:
        transitions = self.transitions  # once: at each access Pyro registers all its parameters
        top = len(transitions) + 1
        with pyro.plate("data", num_data, dim=-1):
            z = pyro.sample(f"z{top}", self.prior())  # (B, latent_dims[-1]), or (K, B, ...) under K particles
            for t in range(top - 1, 0, -1):
                z = pyro.sample(f"z{t}", transitions[t - 1](z))  # (B, latent_dims[t - 1])
            return pyro.sample("x", self.likelihood(z), obs=x)

    def forward(self, x: Tensor) -> Tensor:
        return self.generate(len(x), x)


class ChainProgram(Program):
    """A program pair whose model is a :class:`Chain`."""

    model: Chain

    def __init__(self, model: Chain, guide: PyroModule) -> None:
        super().__init__(model, guide, tuple(f"z{t + 1}" for t in range(len(model.transitions) + 1)))

    @property
    def prior(self) -> nn.Module:
        """The module whose ``forward()`` returns p(z_T)."""
        return self.model.prior

    @property
    def transitions(self) -> nn.ModuleList:
        """The modules whose ``forward(z)`` returns p(z_t|z_{t+1}), from the data up."""
        return self.model.transitions


def sizes_from(
    data_shape: Sequence[int] | None, latent_dims: Sequence[int], hidden_dims: HiddenDims, parts: str
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, ...]]]:
    """Return the shape of a datum, the length of each layer and the hidden widths of each layer's networks.

    Raises
    ------
    ValueError
        If there is no data shape or no layer, or a size is not a positive integer.
    """
    if data_shape is None:
        raise ValueError(f"data_shape: found None, expected the shape of one datum, or all of {parts} as modules")
    sizes = tuple(map(int, latent_dims))
    return tuple(map(int, data_shape)), sizes, _widths(hidden_dims, len(sizes))


def _widths(hidden_dims: HiddenDims, num_layers: int) -> list[tuple[int, ...]]:
    """Return the hidden widths of each layer, from one list for all layers or one list a layer."""
    expected = f"a list of widths, or such a list for each of the {num_layers} layers from z1 up"
    nested = isinstance(hidden_dims, (list, tuple)) and any(hasattr(widths, "__len__") for widths in hidden_dims)
    if not nested:
        return [sizes_of("hidden_dims", hidden_dims, expected)] * num_layers
    if len(hidden_dims) != num_layers:
        raise ValueError(f"hidden_dims: found {hidden_dims!r}, expected {expected}")
    return [
        sizes_of(f"hidden_dims[{t}]", widths, f"the hidden widths of layer z{t + 1}, a list of positive integers")
        for t, widths in enumerate(hidden_dims)
    ]


def made_from_sizes(
    data_shape: Sequence[int],
    latent_dims: Sequence[int],
    hidden_dims: Sequence[Sequence[int]],
    likelihood: AnyLikelihood,
    activation: Activation,
    prior: nn.Module | None,
    transitions: Sequence[nn.Module] | None,
    batch_norm: bool = False,
) -> tuple[nn.Module, Sequence[nn.Module], nn.Module]:
    """Return the prior, transitions and likelihood of a chain, each made from the sizes unless given."""
    if prior is None:
        prior = StandardNormal(latent_dims[-1])
    if transitions is None:
        transitions = [
            DiagonalNormal(MLP(above, (2, below), widths[::-1], activation, batch_norm))
            for (below, above), widths in zip(pairwise(latent_dims), hidden_dims[1:], strict=True)
        ]
    if isinstance(likelihood, str):
        likelihood = likelihood_of(likelihood, latent_dims[0], data_shape, hidden_dims[0][::-1], activation)
    return prior, transitions, likelihood


def check_length(name: str, parts: Sequence[nn.Module], num_layers: int) -> None:
    """Raise ``ValueError`` unless there is one part for each layer."""
    if len(parts) != num_layers:
        raise ValueError(
            f"{name}: found {len(parts)}, expected {num_layers}, one for each layer, z1 to z{num_layers}, that the "
            f"prior and {num_layers - 1} transitions make"
        )


def check_chain(
    prior: nn.Module,
    transitions: Sequence[nn.Module],
    likelihood: nn.Module,
    latent_dims: Sequence[int] | None,
    data_shape: Sequence[int] | None,
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the event shapes of x and of z_1 to z_T, from a run of each part on zeros.

    Raises
    ------
    ValueError
        If ``latent_dims`` does not have one entry more than ``transitions``.
    ProgramError
        If a part does not take the layer above it, or does not return a distribution of the given length.
    """
    expected: list[tuple[int, ...] | None] = [None] * (len(transitions) + 1)
    if latent_dims is not None:
        if len(transitions) != len(latent_dims) - 1:
            raise ValueError(
                f"transitions: found {len(transitions)}, expected {len(latent_dims) - 1}, one between each two of the "
                f"{len(latent_dims)} layers of latent_dims={tuple(latent_dims)}"
            )
        expected = [(size,) for size in latent_dims]
    top = len(transitions)
    shape = check_layer("prior", f"z{top + 1}", result_of("prior", prior), expected[top], batch_shape=())
    layers = [shape]
    for t in range(top - 1, -1, -1):
        name = f"transitions[{t}]"
        shape = check_layer(name, f"z{t + 1}", result_of(name, transitions[t], shape), expected[t])
        layers.insert(0, shape)
    data = None if latent_dims is None or data_shape is None else tuple(data_shape)
    return check_layer("likelihood", "x", result_of("likelihood", likelihood, shape), data), layers
