r"""A deep convolutional ladder: residual networks up and down, with a latent image at each step down.

.. math::

   h_T &= \text{a learned constant}, \qquad
   p(z_t|z_{>t}) = \mathcal{N}\bigl(z_t;\ \mu_t(h_t), \sigma_t^2(h_t)\bigr), \qquad
   h_{t-1} = r_t\bigl(h_t + V_t z_t\bigr), \qquad p(x|z_{1:T}) = p(x|h_0) \\
   q(z_t|z_{>t}, x) &= \mathcal{N}\bigl(z_t;\ \mu_t(h_t) + \Delta_t(h_t, e_t),\ \sigma_t^2(h_t)\, s_t^2(h_t, e_t)\bigr)

The state h carries every draw down to the data (skip connections). A layer therefore depends on all layers above it,
and the data depend on all layers. The guide runs the model's top-down network. At each layer it shifts and rescales the
model's Gaussian by a function of features :math:`e_t(x)` from a bottom-up network. This is a residual on the prior: a
layer that has learnt nothing has a KL of zero. The top-down network is one module, under one name in model and guide.

Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016 (the residual ladder); Vahdat
and Kautz, *NVAE: A Deep Hierarchical Variational Autoencoder*, 2020 (residual Gaussians); Child, *Very Deep VAEs
Generalize Autoregressive Models and Can Outperform Them on Images*, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.nn.images import as_image
from pyro_vae.nn.residual import Convolution, Level, Pixels, ResidualBlock, Resize, Upward, levels_of
from pyro_vae.nn.scales import bounded_scale
from pyro_vae.programs.parts import AnyLikelihood, check_layer, result_of
from pyro_vae.programs.program import Program
from pyro_vae.runtime.arguments import PositiveInteger
from pyro_vae.runtime.kinds import Sizes

__all__ = ["ConvLadderVAE"]

ImageShape = Annotated[Sequence[int], Sizes("an image, (height, width) or (channels, height, width)", bounded=True)]
_EACH_LEVEL = "an integer of {} or more for each level of images, the last level a single pixel"
_BOUNDS = (1e-2, 1e2)  # of the prior's scale, and of the guide's relative to it


def _gaussian(parameters: Tensor, given: dist.Normal | None = None) -> dist.Independent:
    """Return a Gaussian image from its loc and raw log-scale, relative to a ``given`` Gaussian if there is one."""
    loc, raw = parameters.chunk(2, -3)  # (*batch, latent_channels, height, width) each
    scale = bounded_scale(raw, *_BOUNDS)
    if given is not None:
        loc, scale = given.loc + loc, given.scale * scale
    return dist.Normal(loc, scale).to_event(3)


class Step(nn.Module):
    """One layer of the top-down network: p(z_t|h_t), and the state below it."""

    def __init__(self, level_index: int, level: Level, latent_channels: int, enter: nn.Module, factor: float) -> None:
        super().__init__()
        self.level_index, self.level, self.latent_channels = level_index, level, latent_channels
        self.enter = enter
        self.prior = Convolution(level[0], 2 * latent_channels, 1, factor=0.1)
        self.project = Convolution(latent_channels, level[0], 1)
        self.block = ResidualBlock(level, factor)

    def forward(self, h: Tensor) -> dist.Independent:
        return _gaussian(self.prior(functional.silu(h)))

    def below(self, h: Tensor, z: Tensor) -> Tensor:
        """Return the state after the layer's draw."""
        return self.block(h + self.project(z))


class WayDown(nn.Module):
    """The top-down network: a learned constant, and the steps from there to the lowest level."""

    def __init__(self, levels: Sequence[Level], num_layers: Sequence[int], latent_channels: Sequence[int]) -> None:
        super().__init__()
        factor = 1 / math.sqrt(sum(num_layers) + len(levels))
        self.start = nn.Parameter(torch.zeros(levels[-1]))
        steps: list[nn.Module] = []
        enter: list[nn.Module] = []  # what lies between two steps
        for i in range(len(levels) - 1, -1, -1):
            if i + 1 < len(levels):
                enter.append(Resize(levels[i + 1], levels[i]))
            for _ in range(num_layers[i]):
                steps.append(Step(i, levels[i], latent_channels[i], nn.Sequential(*enter), factor))
                enter = []
            if num_layers[i] == 0:
                enter.append(ResidualBlock(levels[i], factor))
        self.steps = nn.ModuleList(reversed(steps))  # from the data up
        self.leave = nn.Sequential(*enter)

    def step(self, t: int) -> Step:
        """Return the step of layer t; layers count from 1, next to the data."""
        return cast(Step, self.steps[t - 1])


class Correction(nn.Module):
    """The residual on a layer's prior, as a function of the top-down state and the bottom-up features."""

    def __init__(self, level: Level, latent_channels: int) -> None:
        super().__init__()
        self.from_data = Convolution(level[0], level[0], 1)
        self.output = Convolution(level[0], 2 * latent_channels, 1 if level[1:] == (1, 1) else 3, factor=0.1)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        return self.output(functional.silu(h + self.from_data(features)))


class Model(PyroModule):
    """The generative program: from the learned constant down, with z_t ~ p(z_t|h_t) at each step."""

    def __init__(self, way_down: WayDown, likelihood: nn.Module) -> None:
        super().__init__()
        self.way_down, self.likelihood = way_down, likelihood

    def generate(self, num_data: int, x: Tensor | None = None) -> Tensor:
        way_down = self.way_down  # once: at each access Pyro registers all its parameters
        h = way_down.start.expand(num_data, -1, -1, -1)
        with pyro.plate("data", num_data, dim=-1):
            for t in range(len(way_down.steps), 0, -1):
                step = way_down.step(t)
                h = step.enter(h)
                h = step.below(h, pyro.sample(f"z{t}", step(h)))  # (B, *level)
            h = way_down.leave(h)
            return pyro.sample("x", self.likelihood(h.flatten(-3)), obs=x)

    def forward(self, x: Tensor) -> Tensor:
        return self.generate(len(x), x)


class Guide(PyroModule):
    """The posterior: deterministic features upwards, then the model's steps down with a residual on each prior."""

    def __init__(self, way_down: WayDown, upward: Upward, image: Level) -> None:
        super().__init__()
        self.way_down, self.upward, self.image = way_down, upward, image
        self.corrections = nn.ModuleList(
            Correction(step.level, step.latent_channels) for step in cast(Iterable[Step], way_down.steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.upward(2 * x.reshape(-1, *self.image) - 1)  # of each level, (B, *level)
        way_down, corrections = self.way_down, self.corrections
        h = way_down.start.expand(len(x), -1, -1, -1)
        with pyro.plate("data", len(x), dim=-1):
            for t in range(len(corrections), 0, -1):
                step = way_down.step(t)
                h = step.enter(h)
                moved = corrections[t - 1](h, features[step.level_index])
                z = pyro.sample(f"z{t}", _gaussian(moved, step(h).base_dist))
                if t > 1:
                    h = step.below(h, z)
        return z


class ConvLadderVAE(Program):
    r"""A deep convolutional ladder for images.

    .. math:: \log p(x) \ge \mathbb{E}_q\Bigl[\log p(x|z_{1:T}) + \sum_{t=1}^T
              \log \frac{p(z_t|z_{>t})}{q(z_t|z_{>t}, x)}\Bigr]

    Its latents are images, from ``"z1"`` next to the data to ``"zT"`` at the top. Each level holds several layers. A
    level has half the height and width of the level below, and the last level is a single pixel. Every KL is between
    Gaussians given the layers above. Free bits (``ELBO(free_bits=...)``) and a warm-up (:func:`pyro_vae.anneal_kl`)
    keep many layers in use.

    Parameters
    ----------
    data_shape
        Shape of one image with pixels in [0, 1]: ``(H, W)`` or ``(C, H, W)``.
    num_layers
        The number of latent layers at each level, from the data up; the last level is the single pixel. T is their sum.
        A level may have none.
    latent_channels
        Channels of the latent images of each level.
    channels
        Channels of the states and features of each level.
    likelihood
        ``"bernoulli"``, ``"gaussian"`` (with the scale from the decoder) or a module whose forward returns p(x|z). It
        takes the last state as a vector ``(*batch, channels[0] * h * w)`` with h and w half the image's.
    num_blocks
        The number of residual blocks at each level of the bottom-up network.

    Raises
    ------
    ValueError
        If ``data_shape`` is not an image, the three lists differ in length or have fewer than two levels, a number is
        not positive, or the likelihood is unknown.
    TypeError
        If the likelihood is not a module.
    ProgramError
        If the likelihood does not take the last state, or does not return the data's shape.

    References
    ----------
    Child, *Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images*, 2021.

    Examples
    --------
    >>> ladder = ConvLadderVAE((28, 28), num_layers=(1, 2, 1), latent_channels=(2, 4, 16), channels=(8, 16, 16))
    >>> x = torch.zeros(3, 28, 28)
    >>> ladder.encode(x, layer=4).shape, ladder.encode(x).shape, ladder.sample(5, layer=2).shape
    (torch.Size([3, 16, 1, 1]), torch.Size([3, 2, 14, 14]), torch.Size([5, 28, 28]))
    """

    model: Model
    guide: Guide

    def __init__(
        self,
        data_shape: ImageShape,
        num_layers: Annotated[Sequence[int], Sizes(_EACH_LEVEL.format(0), least=0)] = (4, 6, 2),
        latent_channels: Annotated[Sequence[int], Sizes(_EACH_LEVEL.format(1))] = (2, 4, 16),
        channels: Annotated[Sequence[int], Sizes(_EACH_LEVEL.format(1))] = (32, 64, 64),
        likelihood: AnyLikelihood = "bernoulli",
        *,
        num_blocks: PositiveInteger = 1,
    ) -> None:
        data_shape = tuple(map(int, data_shape))
        image = as_image("data_shape", data_shape)
        num_layers, latent_channels, channels = (
            tuple(map(int, sizes)) for sizes in (num_layers, latent_channels, channels)
        )
        if len(num_layers) < 2 or sum(num_layers) == 0:
            raise ValueError(f"num_layers: found {num_layers!r}, expected two levels or more, one with a latent")
        for name, counts in (("latent_channels", latent_channels), ("channels", channels)):
            if len(counts) != len(num_layers):
                raise ValueError(f"{name}: found {counts!r}, expected one for each of {len(num_layers)} levels")
        levels = levels_of(image, channels)
        way_down = WayDown(levels, num_layers, latent_channels)
        if likelihood == "bernoulli":
            likelihood = Bernoulli(Pixels(levels[0], data_shape, 1), data_shape)
        elif likelihood == "gaussian":
            likelihood = Gaussian(Pixels(levels[0], data_shape, 2), data_shape, scale="decoder", mean="sigmoid")
        assert isinstance(likelihood, nn.Module)
        check_layer("likelihood", "x", result_of("likelihood", likelihood, (math.prod(levels[0]),)), data_shape)
        super().__init__(
            Model(way_down, likelihood),
            Guide(way_down, Upward(image, levels, num_blocks), image),
            tuple(f"z{t + 1}" for t in range(sum(num_layers))),
        )
