"""Likelihoods: modules whose ``forward(z)`` returns p(x|z), a Pyro distribution with event shape ``data_shape``.

Each is a normalised density or mass of the data that it is for. Which values those are is the distribution's
``support``; data outside it is refused before training starts, not scored by a number that is no density.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.modules import Rebuildable
from pyro_vae.networks import bounded_scale, inverse_bounded_scale

__all__ = ["Bernoulli", "Gaussian", "GaussianScale"]

GaussianScale = Literal["fixed", "shared", "per_pixel", "decoder"]


def _check_output(likelihood: nn.Module, output: Tensor, z: Tensor, shape: tuple[int, ...]) -> None:
    expected = (*z.shape[:-1], *shape)
    if tuple(output.shape) != expected:
        raise ValueError(
            f"{type(likelihood).__name__}: found a network output of shape {tuple(output.shape)} for z of shape "
            f"{tuple(z.shape)}, expected {expected}"
        )


class Bernoulli(Rebuildable):
    r"""Independent black and white pixels, the decoder's output as logits.

    .. math:: \log p(x|z) = \sum_i x_i \log y_i + (1 - x_i) \log (1 - y_i), \qquad y = \mathrm{sigmoid}(f(z))

    Parameters
    ----------
    network
        Takes z, ``(*batch, latent_dim)``, to logits, ``(*batch, *data_shape)``.
    data_shape
        Shape of one datum; its pixels are 0 or 1.

    Raises
    ------
    ValueError
        If the network gives another shape.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, appendix C.1.

    Examples
    --------
    >>> from pyro_vae.networks import MLP
    >>> p = Bernoulli(MLP(50, (28, 28)), (28, 28))(torch.zeros(5, 3, 50))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 3]), torch.Size([28, 28]))
    """

    def __init__(self, network: nn.Module, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.data_shape = tuple(data_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.network(z)  # (*batch, *data_shape)
        _check_output(self, logits, z, self.data_shape)
        return dist.Bernoulli(logits=logits).to_event(len(self.data_shape))

    @torch.no_grad()
    def start_at_mean(self, mean: Tensor) -> None:
        r"""Set the output bias to the logits of the mean pixels, ``(*data_shape)``, as the IWAE paper's code does.

        An untrained decoder then already explains every pixel's base rate. Means are clipped to [0.001, 0.999].

        Raises
        ------
        ValueError
            If ``mean`` has another shape, or the network's last biased layer does not end in the data shape
            (a convolution shares its biases over the pixels).
        """
        if tuple(mean.shape) != self.data_shape:
            raise ValueError(f"mean: found the shape {tuple(mean.shape)}, expected {self.data_shape}")
        biases = [p for name, p in self.network.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases or biases[-1].numel() != mean.numel():
            found = biases[-1].numel() if biases else "no bias"
            raise ValueError(f"network: found {found} as its last bias, expected one value a pixel, {mean.numel()}")
        biases[-1].copy_(torch.logit(mean.to(biases[-1]).flatten(), eps=1e-3))


class Gaussian(Rebuildable):
    r"""Independent real pixels.

    .. math:: p(x|z) = \mathcal{N}\bigl(x;\ \mu(z),\ \mathrm{diag}\,\sigma^2\bigr)

    Parameters
    ----------
    network
        Takes z, ``(*batch, latent_dim)``, to ``(*batch, *data_shape)``; with ``scale="decoder"`` to the mean and the
        raw log-scale, stacked as ``(*batch, 2, *data_shape)``.
    data_shape
        Shape of one datum.
    scale
        Where σ comes from: ``"fixed"`` at ``initial_scale``; one learned number (``"shared"``) or one a pixel
        (``"per_pixel"``), both starting there; or ``"decoder"``, a function of z.
    mean
        ``"identity"``, or ``"sigmoid"`` for pixels in [0, 1] as in the AEVB paper's Frey Face decoder.
    initial_scale
        Start (or fixed value) of σ, unless the decoder gives it.
    low, high
        Bounds of a σ that is not fixed, see :func:`pyro_vae.networks.bounded_scale`: the density of a pixel that
        never varies would grow without bound. The default ``low`` suits 8-bit pixels scaled to [0, 1].

    Raises
    ------
    ValueError
        For an unknown ``scale`` or ``mean``, an ``initial_scale`` that is not positive or, where it starts a learned
        scale, not within its bounds, or a network output of another shape.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, appendix C.2.

    Examples
    --------
    >>> from pyro_vae.networks import MLP
    >>> p = Gaussian(MLP(10, (2, 28, 20)), (28, 20), scale="decoder", mean="sigmoid")(torch.zeros(3, 10))
    >>> p.batch_shape, p.event_shape
    (torch.Size([3]), torch.Size([28, 20]))
    """

    fixed_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        data_shape: Sequence[int],
        scale: GaussianScale = "decoder",
        mean: Literal["identity", "sigmoid"] = "identity",
        initial_scale: float = 1.0,
        low: float = 1e-2,
        high: float = 1e1,
    ) -> None:
        super().__init__()
        if scale not in get_args(GaussianScale):
            choices = ", ".join(map(repr, get_args(GaussianScale)))
            raise ValueError(f"scale: found {scale!r}, expected one of {choices}")
        if mean not in ("identity", "sigmoid"):
            raise ValueError(f"mean: found {mean!r}, expected one of 'identity', 'sigmoid'")
        if not initial_scale > 0:
            raise ValueError(f"initial_scale: found {initial_scale!r}, expected a positive number")
        self.network = network
        self.data_shape = tuple(data_shape)
        self.scale, self.mean = scale, mean
        self.low, self.high = low, high
        start = torch.full(self.data_shape if scale == "per_pixel" else (), float(initial_scale))
        if scale == "fixed":
            self.register_buffer("fixed_scale", start)
        elif scale != "decoder":
            self.raw_scale = nn.Parameter(inverse_bounded_scale(start, low, high))

    def forward(self, z: Tensor) -> dist.Distribution:
        output = self.network(z)  # (*batch, [2,] *data_shape)
        _check_output(self, output, z, (2, *self.data_shape) if self.scale == "decoder" else self.data_shape)
        if self.scale == "decoder":
            loc, raw = output.unbind(z.dim() - 1)  # (*batch, *data_shape) each
            scale = bounded_scale(raw, self.low, self.high)
        else:
            loc = output
            scale = self.fixed_scale if self.scale == "fixed" else bounded_scale(self.raw_scale, self.low, self.high)
        if self.mean == "sigmoid":
            loc = loc.sigmoid()
        return dist.Normal(loc, scale).to_event(len(self.data_shape))
