r"""Likelihoods of data between 0 and 1: black and white pixels, and grey pixels.

The log-probability of black and white pixels :math:`x_i` with logits :math:`l_i` is

.. math:: \log p(x|z) = \sum_i x_i l_i - \log(1 + e^{l_i})
          = \sum_i \Bigl(\bigl(x_i - \tfrac12\bigr) l_i - \tfrac12 |l_i|\Bigr)
            - \sum_j \log \prod_{i \in j} \bigl(1 + e^{-|l_i|}\bigr) .

The form on the right takes one logarithm for a block j of 16 pixels. A product of 16 factors between 1 and 2 cannot
overflow. It is kept as what it exceeds 1 by, :math:`(1 + a)(1 + b) = 1 + (a + b + ab)`, since :math:`1 + e^{-15}`
would round the last four digits of :math:`e^{-15}` away.

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

import math
from typing import Annotated, Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_vae.likelihoods.output import Likelihood
from pyro_vae.runtime.arguments import checked
from pyro_vae.runtime.objects import Arrays

__all__ = ["Bernoulli", "ContinuousBernoulli", "GreyBernoulli", "IndependentBernoulli"]

_BLOCK = 16  # pixels that share a logarithm

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
        return IndependentBernoulli(self.elementwise(output), len(self.data_shape))

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


class IndependentBernoulli(dist.Independent):
    r"""Independent Bernoulli entries, with one logarithm for 16 of them.

    .. math:: \log p(x) = \sum_i x_i l_i - \log(1 + e^{l_i})

    Parameters
    ----------
    base_distribution
        A Bernoulli.
    reinterpreted_batch_ndims
        How many of its last dimensions make one datum, 1 or more.

    Examples
    --------
    >>> p = IndependentBernoulli(dist.Bernoulli(logits=torch.zeros(5, 4, 8)), 2)
    >>> p.event_shape, p.log_prob(torch.ones(4, 8))[0] / 32  # log ½
    (torch.Size([4, 8]), tensor(-0.6931))
    """

    def log_prob(self, value: Tensor) -> Tensor:
        base = self.base_dist
        if base._validate_args:
            base._validate_sample(value)
        num_dims = self.reinterpreted_batch_ndims
        event_shape = torch.broadcast_shapes(base.logits.shape[-num_dims:], value.shape[-num_dims:])
        dtype = torch.promote_types(base.logits.dtype, value.dtype)
        work = torch.promote_types(dtype, torch.float32)  # 2^16 is beyond float16
        logits, x = (
            tensor.to(work).expand(*tensor.shape[:-num_dims], *event_shape).flatten(-num_dims)
            for tensor in (base.logits, value)
        )
        return _LogBernoulli.apply(logits, x).to(dtype)


class _LogBernoulli(torch.autograd.Function):
    """The log-probability of entries ``(*batch, D)``, whose gradient with respect to the logits is x - sigmoid(l)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        minus = -logits.abs()  # few tensors of this size are alive at once: new memory costs more than arithmetic
        twice_linear = torch.addcmul(minus, 2 * x - 1, logits).sum(-1)
        block = math.gcd(logits.shape[-1], _BLOCK)
        excess = torch.exp(minus).unflatten(-1, (block, -1))  # (*batch, block, D / block): neighbours in other blocks
        while block > 1:
            block //= 2
            a, b = excess[..., :block, :], excess[..., block:, :]
            excess = torch.addcmul(a + b, a, b)
        return 0.5 * twice_linear - _log1p(excess.squeeze(-2)).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, x = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        of_x = (gradient * logits).sum_to_size(x.shape) if ctx.needs_input_grad[1] else None
        return (gradient * (x - logits.sigmoid())).sum_to_size(logits.shape), of_x

    @staticmethod
    def jvp(ctx: Any, d_logits: Tensor | None, d_x: Tensor | None) -> Tensor:
        logits, x = ctx.saved_tensors
        slope = x - logits.sigmoid()
        moved = torch.zeros_like(slope) if d_logits is None else d_logits * slope
        return (moved if d_x is None else moved + d_x * logits).sum(-1)


def _log1p(c: Tensor) -> Tensor:
    """Return log(1 + c) as log u + (c - (u - 1)) / u, where u is 1 + c rounded; TorchInductor vectorises log alone."""
    u = 1 + c
    return u.log() + (c - (u - 1)) / u


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
