r"""Likelihoods of data between 0 and 1: black and white pixels, and grey pixels.

A Bernoulli has mass on 0 and 1 alone. Its formula, applied to grey pixels, has an integral below 1 that depends on the
logit :math:`\lambda`:

.. math:: \int_0^1 y^x (1 - y)^{1 - x} dx = \frac{e^\lambda - 1}{\lambda\,(1 + e^\lambda)},
          \qquad y = \mathrm{sigmoid}(\lambda) .

Divided by this integral it is a density, the continuous Bernoulli, whose logarithm is linear in x:

.. math:: \log p(x|\lambda) = \lambda \bigl(x - \tfrac12\bigr) - \log \frac{\sinh(\lambda / 2)}{\lambda / 2},
          \qquad 0 \le x \le 1 .

In this form nothing overflows, and white under λ is black under -λ. Torch's continuous Bernoulli clips the probability
to what float32 can tell from 1, and is wrong for logits beyond 16. The one here uses logits alone.

Loaiza-Ganem and Cunningham, *The continuous Bernoulli: fixing a pervasive error in variational autoencoders*, 2019.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_vae.likelihoods.bernoulli import IndependentBernoulli
from pyro_vae.likelihoods.output import Likelihood
from pyro_vae.runtime.arguments import checked
from pyro_vae.runtime.objects import Arrays

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "GreyBernoulli",
]


_NEAR = 0.5  # below it a series is used, exact to float64


class Bernoulli(Likelihood):
    r"""Independent black and white pixels, with the network's output as logits.

    .. math:: \log p(x|z) = \sum_i x_i \log y_i + (1 - x_i) \log (1 - y_i), \qquad y = \mathrm{sigmoid}(f(z))

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to logits, ``(*batch, *data_shape)``.
    data_shape
        The shape of one datum; its pixels are 0 or 1.

    Raises
    ------
    ValueError
        If the network gives another shape.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, appendix C.1.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = Bernoulli(MLP(50, (28, 28)), (28, 28))(torch.zeros(5, 3, 50))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 3]), torch.Size([28, 28]))
    """

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        (logits,) = parameters
        return dist.Bernoulli(logits=logits)

    def from_output(self, output: Tensor) -> dist.TorchDistribution:
        entries = self.elementwise(output)
        if type(entries) is not dist.Bernoulli or not self.data_shape:  # of a subclass; of a single pixel
            return super().from_output(output)
        return IndependentBernoulli(entries, len(self.data_shape))

    @checked
    @torch.no_grad()
    def start_at_mean(self, mean: Annotated[Any, Arrays("a tensor or an array", least_dims=0)]) -> None:
        r"""Set the output bias to the logits of the mean pixels, ``(*data_shape)``, as the IWAE paper's code does.

        An untrained decoder then gives every pixel its mean. Means are clipped to [0.001, 0.999].

        Raises
        ------
        ValueError
            If ``mean`` has another shape, or if the network's last bias does not have one value per pixel, as in a
            convolution.
        """
        mean = torch.as_tensor(mean)
        if tuple(mean.shape) != self.data_shape:
            raise ValueError(f"mean: found the shape {tuple(mean.shape)}, expected {self.data_shape}")
        biases = [p for name, p in self.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases or biases[-1].numel() != mean.numel():
            found = biases[-1].numel() if biases else "no bias"
            raise ValueError(f"network: found {found} as its last bias, expected one value a pixel, {mean.numel()}")
        biases[-1].copy_(torch.logit(mean.to(biases[-1]).flatten(), eps=1e-3))


class ContinuousBernoulli(Likelihood):
    r"""Independent grey pixels, anywhere in [0, 1].

    .. math:: p(x|z) \propto \prod_i y_i^{x_i} (1 - y_i)^{1 - x_i}, \qquad y = \mathrm{sigmoid}(f(z))

    Its mean is not y; :class:`GreyBernoulli` has the formula.

    Parameters
    ----------
    network
        The decoder, from z ``(*batch, latent_dim)`` to logits λ, ``(*batch, *data_shape)``.
    data_shape
        The shape of one datum; its pixels lie in [0, 1].

    Raises
    ------
    ValueError
        If the network gives another shape.

    References
    ----------
    Loaiza-Ganem and Cunningham, *The continuous Bernoulli*, 2019.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> p = ContinuousBernoulli(MLP(2, (3,)), (3,))(torch.zeros(1, 2))  # logits 0: the uniform density
    >>> p.log_prob(torch.tensor([0.1, 0.5, 0.9])), p.mean
    (tensor([0.], grad_fn=<SumBackward1>), tensor([[0.5000, 0.5000, 0.5000]], grad_fn=<AddBackward0>))
    """

    def elementwise(self, *parameters: Tensor) -> dist.TorchDistribution:
        (logits,) = parameters
        return GreyBernoulli(logits)


class GreyBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli distribution, exact for small and for large logits.

    .. math:: \mathbb{E}[x] = \tfrac12 + \tfrac12 \Bigl(\coth\frac\lambda2 - \frac2\lambda\Bigr), \qquad
              x = \tfrac1\lambda \log\bigl(1 + u\,(e^\lambda - 1)\bigr),\quad u \sim \mathrm{Uniform}(0, 1)

    Parameters
    ----------
    logits
        λ, any real numbers.

    Examples
    --------
    >>> GreyBernoulli(torch.tensor([-1e4, 0.0, 1e4])).log_prob(torch.tensor([0.0, 0.5, 1.0]))  # log λ at its end
    tensor([9.2103, 0.0000, 9.2103])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GreyBernoulli:
        new = self._get_checked_instance(GreyBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(GreyBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        size, near = self._size()
        series = logits * (value - 0.5) - _log_sinh_ratio(0.5 * logits * near)
        # The same with |λ|/2 moved between the two terms, so that no large numbers cancel at the likely end.
        far = logits * torch.where(logits > 0, value - 1, value) - torch.log(-torch.expm1(-size) / size)
        return torch.where(near, series, far)

    @property
    def mean(self) -> Tensor:
        size, near = self._size()
        far = self.logits.sign() * (0.5 / torch.tanh(0.5 * size) - 1 / size)
        return 0.5 + torch.where(near, 0.5 * _langevin(0.5 * self.logits * near), far)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        size, near = self._size(1e-6)
        black = torch.log1p(u * torch.expm1(-size)) / -size  # a draw under -|λ|
        black = torch.where(near, u, black).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - black, black)

    def _size(self, least: float = _NEAR) -> tuple[Tensor, Tensor]:
        """Return |λ|, replaced by ``least`` where it is smaller, and a mask of these places.

        With the replacement, gradients of the branch that is not used stay finite.
        """
        size = self.logits.abs()
        near = size < least
        return torch.where(near, least, size), near


def _log_sinh_ratio(a: Tensor) -> Tensor:
    """Return log(sinh(a) / a) by its series."""
    s = a.square()
    return s * (1 / 6 + s * (-1 / 180 + s * (1 / 2835 + s * (-1 / 37800 + s * (1 / 467775 - s * 691 / 3831077250)))))


def _langevin(a: Tensor) -> Tensor:
    """Return coth(a) - 1/a, the derivative of the above, by its series."""
    s = a.square()
    return a * (1 / 3 + s * (-1 / 45 + s * (2 / 945 + s * (-1 / 4725 + s * (2 / 93555 - s * 1382 / 638512875)))))
