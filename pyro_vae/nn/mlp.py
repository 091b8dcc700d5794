"""Multilayer perceptrons with any number of leading batch dimensions.

A network knows the shape of one input and of one output, and nothing of probability. ``MLP`` and ``ImageEncoder`` turn
an image into the parameters of q(z|x). ``MLP`` and ``ImageDecoder`` turn a latent vector into those of p(x|z). Every
leading dimension is a batch dimension, so a decoder takes one latent vector per datum, ``(B, latent_dim)``, or K of
them, ``(K, B, latent_dim)``.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.nn.layers import ACTIVATIONS, Activation, Shape, as_shape, check_trailing, initialise
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import Widths

__all__ = ["MLP", "ConditionalMLP"]


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all leading dimensions, including particles."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class MLP(Rebuildable):
    r"""A multilayer perceptron from ``(*batch, *in_shape)`` to ``(*batch, *out_shape)``.

    .. math:: h_0 = x,\quad h_i = f(W_i h_{i-1} + b_i),\quad y = W h_n + b

    Parameters
    ----------
    in_shape, out_shape
        The shapes of one input and of one output; an integer is a vector of that length. With ``out_shape=None`` the
        last hidden layer is the output, :math:`y = h_n`.
    hidden_dims
        The widths of the hidden layers; empty for an affine map.
    activation
        The name of f. It decides the initial weights: Glorot's for ``"tanh"``, ``"sigmoid"`` and ``"softplus"``, He's
        for rectifiers.
    batch_norm
        Normalise each hidden layer over the batch before f (Ioffe and Szegedy, 2015). In train mode the data of a batch
        then depend on each other. Scores are computed in eval mode, where they do not.

    Raises
    ------
    ValueError
        For an unknown activation, a shape that is not positive, an input of another shape, or if there is neither a
        hidden layer nor an ``out_shape``.

    Examples
    --------
    >>> import torch
    >>> MLP((28, 28), (2, 50), hidden_dims=(200, 200))(torch.zeros(5, 3, 28, 28)).shape
    torch.Size([5, 3, 2, 50])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None,
        hidden_dims: Widths = (200, 200),
        activation: Activation = "tanh",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape = as_shape(in_shape)
        widths = [math.prod(self.in_shape), *as_shape(hidden_dims)]
        if out_shape is None and len(widths) == 1:
            raise ValueError("out_shape: found None and no hidden layer, expected one of the two")
        layers: list[nn.Module] = []
        for in_features, out_features in pairwise(widths):
            linear = nn.Linear(in_features, out_features)
            initialise(linear, activation)
            layers += [linear, *([_BatchNorm(out_features)] if batch_norm else []), ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*layers)
        self.output: nn.Module = nn.Identity()
        self.out_shape: tuple[int, ...] = (widths[-1],)
        if out_shape is not None:
            self.out_shape = as_shape(out_shape)
            self.output = nn.Linear(widths[-1], math.prod(self.out_shape))
            initialise(self.output, None)

    def forward(self, x: Tensor) -> Tensor:
        check_trailing(self, x, self.in_shape)
        h = self.hidden(x.flatten(x.dim() - len(self.in_shape)))  # (*batch, hidden_dims[-1])
        return self.output(h).unflatten(-1, self.out_shape)  # (*batch, *out_shape)


class ConditionalMLP(Rebuildable):
    r"""A multilayer perceptron of x and z, in which z enters at the last hidden layer.

    .. math:: y = W f\bigl(g(x) + V z\bigr) + b

    g is an :class:`MLP` with all the hidden layers. It runs once per datum, even if z holds K particles of each datum:
    ``(B, *x_shape)`` and ``(K, B, *z_shape)`` give ``(K, B, *out_shape)``.

    Parameters
    ----------
    x_shape, z_shape, out_shape
        The shapes of one x, one z and one output.
    hidden_dims
        The widths of the hidden layers of g, of which the last is also the width of f; empty for an affine map.
    activation
        The name of f, which g uses too.

    Raises
    ------
    ValueError
        As in :class:`MLP`.

    Examples
    --------
    >>> import torch
    >>> ConditionalMLP((28, 28), 50, (2, 100))(torch.zeros(5, 28, 28), torch.zeros(3, 5, 50)).shape
    torch.Size([3, 5, 2, 100])
    """

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        out_shape: Shape,
        hidden_dims: Widths = (200, 200),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        self.out_shape = as_shape(out_shape)
        hidden_dims = as_shape(hidden_dims)
        width = hidden_dims[-1] if hidden_dims else math.prod(self.out_shape)
        self.from_x = MLP(x_shape, width, hidden_dims, activation)
        self.from_z = MLP(z_shape, width, ())
        self.output: nn.Module = nn.Identity()
        if hidden_dims:
            linear = nn.Linear(width, math.prod(self.out_shape))
            initialise(linear, None)
            self.output = nn.Sequential(ACTIVATIONS[activation](), linear)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.output(self.from_x(x) + self.from_z(z)).unflatten(-1, self.out_shape)
