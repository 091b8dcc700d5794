r"""Likelihoods of real numbers: a location and a scale for each.

They differ by how an error counts that is large beside the scale: the Gaussian's log-density falls with its square, the
Laplace's with its size, Student's only with its logarithm, so that a few entries which are far off, of a sensor that
failed or a form filled in wrongly, neither bend the latents nor widen the scale of all.

.. math:: -\tfrac12 \Bigl(\frac{x - \mu}{\sigma}\Bigr)^2, \qquad -\Bigl|\frac{x - \mu}{b}\Bigr|, \qquad
          -\frac{\nu + 1}{2} \log\Bigl(1 + \frac1\nu \Bigl(\frac{x - \mu}{\sigma}\Bigr)^2\Bigr)

Grey levels are not real numbers: a density of them grows without bound where a pixel never varies. Bound the scale from
below, as here, or dequantise them (:mod:`pyro_vae.data.dequantisation`), or take a likelihood made for them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.likelihoods.densities import StudentT as StudentDistribution
from pyro_vae.likelihoods.output import Likelihood
from pyro_vae.nn.scales import bounded_scale, check_bounds, inverse_bounded_scale
from pyro_vae.runtime.arguments import DataShape, PositiveNumber
from pyro_vae.runtime.kinds import Numbers

__all__ = ["Gaussian", "GaussianScale", "Laplace", "LocationScale", "StudentT"]

GaussianScale = Literal["fixed", "shared", "per_pixel", "decoder"]


class LocationScale(Likelihood):
    """Real pixels around a location, each with a scale; to be inherited. See :class:`Gaussian` for the arguments."""

    fixed_scale: Tensor

    def __init__(
        self,
        network: nn.Module | None,
        data_shape: DataShape,
        scale: GaussianScale = "decoder",
        mean: Literal["identity", "sigmoid"] = "identity",
        initial_scale: PositiveNumber = 1.0,
        low: PositiveNumber = 1e-2,
        high: PositiveNumber = 1e1,
    ) -> None:
        super().__init__(network, data_shape)
        check_bounds(low, high)
        if scale in ("shared", "per_pixel") and not low < initial_scale < high:
            raise ValueError(
                f"initial_scale: found {initial_scale!r}, expected a number between low={low!r} and high={high!r}"
            )
        self.scale, self.mean = scale, mean
        self.low, self.high = low, high
        start = torch.full(self.data_shape if scale == "per_pixel" else (), float(initial_scale))
        if scale == "fixed":
            self.register_buffer("fixed_scale", start)
        elif scale != "decoder":
            self.raw_scale = nn.Parameter(inverse_bounded_scale(start, low, high))

    @property
    def num_outputs(self) -> int:
        return 2 if self.scale == "decoder" else 1

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        if self.scale == "decoder":
            loc, raw = parameters  # (*batch, *data_shape) each
            scale = bounded_scale(raw, self.low, self.high)
        else:
            (loc,) = parameters
            scale = self.fixed_scale if self.scale == "fixed" else bounded_scale(self.raw_scale, self.low, self.high)
        if self.mean == "sigmoid":
            loc = loc.sigmoid()
        return self.family(loc, scale)

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of the entries."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method family")


class Gaussian(LocationScale):
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
        Bounds of a σ that is not fixed, see :func:`pyro_vae.nn.scales.bounded_scale`: the density of a pixel that
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
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = Gaussian(MLP(10, (2, 28, 20)), (28, 20), scale="decoder", mean="sigmoid")(torch.zeros(3, 10))
    >>> p.batch_shape, p.event_shape
    (torch.Size([3]), torch.Size([28, 20]))
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)


class Laplace(LocationScale):
    r"""Independent real pixels, whose errors count by their size.

    .. math:: p(x|z) = \prod_i \frac1{2 b_i} \exp\Bigl(-\frac{|x_i - \mu_i(z)|}{b_i}\Bigr)

    μ is the median of a pixel. Arguments and errors are those of :class:`Gaussian`, with the scale b for σ: the
    standard deviation is :math:`\sqrt2\, b`.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = Laplace(MLP(2, (3,)), (3,), scale="fixed")(torch.zeros(1, 2))
    >>> p.log_prob(torch.zeros(3)).exp()  # 1/2 each
    tensor([0.1250], grad_fn=<ExpBackward0>)
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)


class StudentT(LocationScale):
    r"""Independent real pixels with tails so heavy that outliers are nothing special.

    .. math:: p(x|z) = \prod_i \frac{\Gamma(\frac{\nu + 1}2)}{\Gamma(\frac\nu2) \sqrt{\pi\nu}\, \sigma_i}
              \Bigl(1 + \frac{(x_i - \mu_i(z))^2}{\nu \sigma_i^2}\Bigr)^{-\frac{\nu + 1}2}

    The other arguments and errors are those of :class:`Gaussian`.

    Parameters
    ----------
    df
        The degrees of freedom ν, the same for all pixels and not learned; above 1, so that there is a mean. From about
        30 on it is as good as a Gaussian.

    Raises
    ------
    ValueError
        If ``df`` is not above 1.

    References
    ----------
    Lange, Little and Taylor, *Robust statistical modeling using the t distribution*, 1989.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = StudentT(MLP(2, (3,)), (3,), scale="fixed", df=3.0)(torch.zeros(1, 2))
    >>> p.log_prob(torch.full((3,), 100.0)).item() > -60  # a Gaussian's is -15003
    True
    """

    df: Tensor

    def __init__(
        self,
        network: nn.Module | None,
        data_shape: DataShape,
        scale: GaussianScale = "decoder",
        mean: Literal["identity", "sigmoid"] = "identity",
        initial_scale: PositiveNumber = 1.0,
        low: PositiveNumber = 1e-2,
        high: PositiveNumber = 1e1,
        df: Annotated[float, Numbers("a number above 1", 1, math.inf, "both")] = 4.0,
    ) -> None:
        super().__init__(network, data_shape, scale, mean, initial_scale, low, high)
        self.register_buffer("df", torch.tensor(float(df)))

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return StudentDistribution(self.df, loc, scale)
