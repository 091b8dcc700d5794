r"""Likelihoods of real numbers, by a location and a scale.

They differ in the cost of an error that is large compared to the scale. The log-density falls with the square of the
error for the Gaussian, with its size for the Laplace, and only with its logarithm for Student's t. Under the last, a
few outliers, as from a broken sensor, neither distort the latents nor widen the scale of all.

.. math:: -\tfrac12 \Bigl(\frac{x - \mu}{\sigma}\Bigr)^2, \qquad -\Bigl|\frac{x - \mu}{b}\Bigr|, \qquad
          -\frac{\nu + 1}{2} \log\Bigl(1 + \frac1\nu \Bigl(\frac{x - \mu}{\sigma}\Bigr)^2\Bigr)

Grey levels are not real numbers: their density grows without bound where a pixel never varies. Bound the scale from
below, as here, dequantise the levels (:mod:`pyro_vae.data.dequantisation`), or use a likelihood of grey levels.
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
    """The base class of likelihoods with a location and a scale; see :class:`Gaussian` for the arguments."""

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
        """Return the distribution of the entries."""
        raise NotImplementedError(f"{type(self).__name__}: found no method family, expected one")


class Gaussian(LocationScale):
    r"""Independent Gaussian pixels.

    .. math:: p(x|z) = \mathcal{N}\bigl(x;\ \mu(z),\ \mathrm{diag}\,\sigma^2\bigr)

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to the mean, ``(*batch, *data_shape)``. With ``scale="decoder"``
        it gives the mean and the raw log-scale, stacked as ``(*batch, 2, *data_shape)``.
    data_shape
        The shape of one datum.
    scale
        The source of σ: ``"fixed"``, ``initial_scale``; ``"shared"``, one learned number; ``"per_pixel"``, one for each
        pixel; or ``"decoder"``, a function of z.
    mean
        ``"identity"``, or ``"sigmoid"`` for pixels in [0, 1] as in the AEVB paper's Frey Face decoder.
    initial_scale
        The fixed or initial value of σ, unless the decoder gives it.
    low, high
        The bounds of σ unless it is fixed, see :func:`pyro_vae.nn.scales.bounded_scale`. They keep the density of a
        pixel that never varies finite. The default ``low`` suits 8-bit pixels scaled to [0, 1].

    Raises
    ------
    ValueError
        For an unknown ``scale`` or ``mean``, an ``initial_scale`` that is not positive, a learned scale that does not
        start within its bounds, or a network output of another shape.

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
    r"""Independent Laplace pixels.

    .. math:: p(x|z) = \prod_i \frac1{2 b_i} \exp\Bigl(-\frac{|x_i - \mu_i(z)|}{b_i}\Bigr)

    μ is the median of a pixel. The arguments and errors are those of :class:`Gaussian`, with the scale b instead of σ.
    The standard deviation is :math:`\sqrt2\, b`.

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
    r"""Independent pixels with Student's t distribution, whose heavy tails allow for outliers.

    .. math:: p(x|z) = \prod_i \frac{\Gamma(\frac{\nu + 1}2)}{\Gamma(\frac\nu2) \sqrt{\pi\nu}\, \sigma_i}
              \Bigl(1 + \frac{(x_i - \mu_i(z))^2}{\nu \sigma_i^2}\Bigr)^{-\frac{\nu + 1}2}

    The other arguments and errors are those of :class:`Gaussian`.

    Parameters
    ----------
    df
        The degrees of freedom ν of all pixels, which are not learned. They are above 1, so that there is a mean. From
        about 30 on the distribution is nearly Gaussian.

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
