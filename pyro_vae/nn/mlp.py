"""Networks: tensor to tensor, with any number of leading batch dimensions.

A network knows the shape of one input and of one output and nothing of probability. ``MLP`` and ``ImageEncoder`` turn
an image into the parameters of q(z|x), ``MLP`` and ``ImageDecoder`` a latent vector into those of p(x|z). Because every
leading dimension is a batch dimension, a decoder takes one latent a datum, ``(B, latent_dim)``, and K of them,
``(K, B, latent_dim)``, alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import DataShape, Widths
from pyro_vae.runtime.kinds import Integers, Sizes

__all__ = [
    "MLP",
    "Activation",
    "ConditionalMLP",
    "ImageDecoder",
    "ImageEncoder",
    "as_image",
    "bounded_scale",
    "check_bounds",
    "inverse_bounded_scale",
]

Shape = Annotated[int | Sequence[int], Sizes("positive integers", bounded=True, or_one=True)]
_Size = Annotated[int, Integers("positive integers", 1)]
Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
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


def _initialise(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, activation: str | None) -> None:
    """Glorot's weights for saturating activations and for outputs, He's for rectifiers; biases zero.

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


def _as_shape(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(map(int, shape))  # some of them may be NumPy's


def _check_trailing(network: nn.Module, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[x.dim() - len(shape) :]) != shape:
        raise ValueError(
            f"{type(network).__name__}: found an input of shape {tuple(x.shape)}, expected (*batch, "
            f"{', '.join(map(str, shape))})"
        )


def check_bounds(low: float, high: float) -> None:
    """Raise ``ValueError`` unless a scale can lie between two bounds."""
    if not 0 < low < high:
        raise ValueError(f"low, high: found {low!r} and {high!r}, expected 0 < low < high")


def bounded_scale(raw: Tensor, low: float, high: float) -> Tensor:
    r"""Map the real line smoothly onto a scale in ``(low, high)``, through a bounded log-scale.

    .. math:: \log\sigma = m + h \tanh(\mathrm{raw} / h), \quad
              m = \tfrac12 (\log \mathrm{high} + \log \mathrm{low}),\;
              h = \tfrac12 (\log \mathrm{high} - \log\mathrm{low})

    Around ``raw = 0`` this is the plain :math:`\sigma = e^{m + \mathrm{raw}}`; far from it, where an exponential
    overflows early in training, it saturates. No finite or infinite ``raw`` gives NaN, zero or infinity.

    Raises
    ------
    ValueError
        Unless ``0 < low < high``.

    Examples
    --------
    >>> bounded_scale(torch.tensor([-1e30, 0.0, 1e30]), 0.01, 100.0)
    tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """
    check_bounds(low, high)
    middle = 0.5 * (math.log(high) + math.log(low))
    half = 0.5 * (math.log(high) - math.log(low))
    return torch.exp(middle + half * torch.tanh(raw / half))


def inverse_bounded_scale(scale: Tensor, low: float, high: float) -> Tensor:
    """Return the ``raw`` that :func:`bounded_scale` maps to ``scale``.

    Raises
    ------
    ValueError
        Unless ``0 < low < scale < high`` everywhere.

    Examples
    --------
    >>> bounded_scale(inverse_bounded_scale(torch.tensor(0.5), 0.01, 10.0), 0.01, 10.0)
    tensor(0.5000)
    """
    if not 0 < low < high or not ((scale > low) & (scale < high)).all():
        raise ValueError(
            f"low, high: found {low!r} and {high!r}, expected positive numbers below and above the scale, from "
            f"{scale.min():g} to {scale.max():g}"
        )
    middle = 0.5 * (math.log(high) + math.log(low))
    half = 0.5 * (math.log(high) - math.log(low))
    return half * torch.atanh((scale.log() - middle) / half)


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all leading dimensions, those of the particles too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class MLP(Rebuildable):
    r"""A multilayer perceptron from ``(*batch, *in_shape)`` to ``(*batch, *out_shape)``.

    .. math:: h_0 = x,\quad h_i = f(W_i h_{i-1} + b_i),\quad y = W h_n + b

    Parameters
    ----------
    in_shape, out_shape
        Shape of one input and of one output; an integer is a vector of that length. Without an ``out_shape`` the last
        hidden layer is the output, :math:`y = h_n`.
    hidden_dims
        Widths of the hidden layers; empty for an affine map.
    activation
        Name of f. Weights start as Glorot's for ``"tanh"`` and its like and as He's for rectifiers.
    batch_norm
        Normalise each hidden layer over the batch before f (Ioffe and Szegedy, 2015). In train mode the data of a batch
        are then no longer independent of each other; what is reported is computed in eval mode.

    Raises
    ------
    ValueError
        For an unknown activation, a shape that is not positive, neither hidden layers nor an output, or an input of
        another shape.

    Examples
    --------
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
        self.in_shape = _as_shape(in_shape)
        widths = [math.prod(self.in_shape), *_as_shape(hidden_dims)]
        if out_shape is None and len(widths) == 1:
            raise ValueError("out_shape: found None and no hidden layer, expected one of the two")
        layers: list[nn.Module] = []
        for in_features, out_features in pairwise(widths):
            linear = nn.Linear(in_features, out_features)
            _initialise(linear, activation)
            layers += [linear, *([_BatchNorm(out_features)] if batch_norm else []), _ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*layers)
        self.output: nn.Module = nn.Identity()
        self.out_shape: tuple[int, ...] = (widths[-1],)
        if out_shape is not None:
            self.out_shape = _as_shape(out_shape)
            self.output = nn.Linear(widths[-1], math.prod(self.out_shape))
            _initialise(self.output, None)

    def forward(self, x: Tensor) -> Tensor:
        _check_trailing(self, x, self.in_shape)
        h = self.hidden(x.flatten(x.dim() - len(self.in_shape)))  # (*batch, hidden_dims[-1])
        return self.output(h).unflatten(-1, self.out_shape)  # (*batch, *out_shape)


class ConditionalMLP(Rebuildable):
    r"""A multilayer perceptron of x and z that sees x alone at first: from ``x, z`` to ``(*batch, *out_shape)``.

    .. math:: y = W f\bigl(g(x) + V z\bigr) + b

    g is an :class:`MLP` with all the hidden layers. It runs once a datum, while z may hold K particles of each:
    ``(B, *x_shape)`` and ``(K, B, *z_shape)`` give ``(K, B, *out_shape)``.

    Parameters
    ----------
    x_shape, z_shape, out_shape
        Shapes of one x, one z and one output.
    hidden_dims
        Widths of the hidden layers of g; that of f is the last of them. Empty for an affine map of x and z.
    activation
        Name of f, and of that within g.

    Raises
    ------
    ValueError
        As for :class:`MLP`.

    Examples
    --------
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
        self.out_shape = _as_shape(out_shape)
        hidden_dims = _as_shape(hidden_dims)
        width = hidden_dims[-1] if hidden_dims else math.prod(self.out_shape)
        self.from_x = MLP(x_shape, width, hidden_dims, activation)
        self.from_z = MLP(z_shape, width, ())
        self.output: nn.Module = nn.Identity()
        if hidden_dims:
            linear = nn.Linear(width, math.prod(self.out_shape))
            _initialise(linear, None)
            self.output = nn.Sequential(_ACTIVATIONS[activation](), linear)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.output(self.from_x(x) + self.from_z(z)).unflatten(-1, self.out_shape)


def as_image(argument: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """``(H, W)`` or ``(C, H, W)`` as ``(C, H, W)``."""
    sizes = _as_shape(shape)
    if len(sizes) not in (2, 3):
        raise ValueError(f"{argument}: found {sizes}, expected an image, (height, width) or (channels, height, width)")
    channels, height, width = (1, *sizes) if len(sizes) == 2 else sizes
    return channels, height, width


def _halved(size: int) -> int:
    return (size + 1) // 2  # what a convolution with kernel 3, stride 2 and padding 1 leaves


class ImageEncoder(Rebuildable):
    """Convolutions that halve an image, then an affine map: ``(*batch, *in_shape)`` to ``(*batch, *out_shape)``.

    Parameters
    ----------
    in_shape
        One image, ``(H, W)`` or ``(C, H, W)``; any height and width.
    out_shape
        Shape of one output.
    channels
        Channels of each stage (kernel 3, stride 2).

    Raises
    ------
    ValueError
        If ``in_shape`` is no image, or the input has another shape.

    Examples
    --------
    >>> ImageEncoder((28, 20), (2, 10))(torch.zeros(4, 28, 20)).shape
    torch.Size([4, 2, 10])
    """

    def __init__(
        self,
        in_shape: DataShape,
        out_shape: Shape,
        channels: Widths = (32, 64),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _as_shape(in_shape), _as_shape(out_shape)
        self.image_shape = in_channels, height, width = as_image("in_shape", in_shape)
        stages: list[nn.Module] = []
        for out_channels in _as_shape(channels):
            stages += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), _ACTIVATIONS[activation]()]
            _initialise(stages[-2], activation)  # type: ignore[arg-type]
            in_channels, height, width = out_channels, _halved(height), _halved(width)
        self.stages = nn.Sequential(*stages)
        self.output = nn.Linear(in_channels * height * width, math.prod(self.out_shape))
        _initialise(self.output, None)

    def forward(self, x: Tensor) -> Tensor:
        _check_trailing(self, x, self.in_shape)
        batch_shape = x.shape[: x.dim() - len(self.in_shape)]
        h = self.stages(x.reshape(-1, *self.image_shape))  # (prod(batch), channels[-1], h, w)
        return self.output(h.flatten(1)).reshape(*batch_shape, *self.out_shape)


class ImageDecoder(Rebuildable):
    """The mirror of :class:`ImageEncoder`: ``(*batch, in_features)`` to ``(*batch, *out_shape)``.

    Parameters
    ----------
    in_features
        Length of the latent vector.
    out_shape
        One image, ``(H, W)`` or ``(C, H, W)``; with ``num_outputs > 1`` so many of them, ``(num_outputs, *image)``.
    channels
        Channels of each stage, from the smallest image up.

    Raises
    ------
    ValueError
        If ``out_shape`` is no image, there is no stage, or the input has another length.

    Examples
    --------
    >>> ImageDecoder(10, (28, 20), num_outputs=2)(torch.zeros(5, 4, 10)).shape
    torch.Size([5, 4, 2, 28, 20])
    """

    def __init__(
        self,
        in_features: _Size,
        out_shape: DataShape,
        channels: Widths = (64, 32),
        activation: Activation = "relu",
        num_outputs: _Size = 1,
    ) -> None:
        super().__init__()
        self.in_shape = (in_features,)
        image = _as_shape(out_shape)
        image_channels, height, width = as_image("out_shape", out_shape)
        self.out_shape = image if num_outputs == 1 else (num_outputs, *image)
        channels = _as_shape(channels)
        if not channels:
            raise ValueError("channels: found no stage, expected one or more")
        sizes = [(height, width)]
        for _ in channels:
            sizes.append((_halved(sizes[-1][0]), _halved(sizes[-1][1])))
        sizes.reverse()
        self.small_shape = (channels[0], *sizes[0])
        self.input = nn.Linear(in_features, math.prod(self.small_shape))
        _initialise(self.input, activation)
        stages: list[nn.Module] = [_ACTIVATIONS[activation]()]
        for i, (before, after) in enumerate(pairwise(sizes)):
            last = i == len(channels) - 1
            out_channels = num_outputs * image_channels if last else channels[i + 1]
            odd = (after[0] - (2 * before[0] - 1), after[1] - (2 * before[1] - 1))
            stages.append(nn.ConvTranspose2d(channels[i], out_channels, 3, stride=2, padding=1, output_padding=odd))
            _initialise(stages[-1], None if last else activation)  # type: ignore[arg-type]
            stages += [] if last else [_ACTIVATIONS[activation]()]
        self.stages = nn.Sequential(*stages)

    def forward(self, z: Tensor) -> Tensor:
        _check_trailing(self, z, self.in_shape)
        h = self.input(z).reshape(-1, *self.small_shape)  # (prod(batch), channels[0], h, w)
        return self.stages(h).reshape(*z.shape[:-1], *self.out_shape)
