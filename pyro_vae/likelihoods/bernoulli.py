r"""The log-probability of black and white pixels, with one logarithm for 16 of them.

With logits :math:`l_i`,

.. math:: \log p(x|z) = \sum_i x_i l_i - \log(1 + e^{l_i})
          = \sum_i \Bigl(\bigl(x_i - \tfrac12\bigr) l_i - \tfrac12 |l_i|\Bigr)
            - \sum_j \log \prod_{i \in j} \bigl(1 + e^{-|l_i|}\bigr) ,

where j goes over blocks of 16 pixels. A product of 16 factors between 1 and 2 cannot overflow. It is kept as what it
exceeds 1 by, :math:`(1 + a)(1 + b) = 1 + (a + b + ab)`, since :math:`1 + e^{-15}` would round the last four digits of
:math:`e^{-15}` away.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = [
    "IndependentBernoulli",
]


_BLOCK = 16  # pixels that share a logarithm


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
