r"""Priors of discrete codes: modules whose ``forward()`` returns p(k), over integers of a shape such as 7 × 7.

Codes are learned under a uniform prior, :math:`p(k) = K^{-P}` for P positions. The prior is then fitted to the codes of
the data: to their frequencies at each position, or, by the chain rule, to their joint distribution:

.. math:: p(k) = \prod_{i=1}^P p(k_i | k_1, \dots, k_{i-1}) .

Both priors here start as the uniform one. Their gradient comes from log p(k) alone and reaches nothing but the prior,
so they can be trained with the codes or afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import PositiveInteger
from pyro_vae.runtime.kinds import Sizes

__all__ = ["AutoregressiveCategorical", "AutoregressiveCodes", "IndependentCodes"]

CodeShape = Annotated[Sequence[int], Sizes("one positive integer or more", count=1, bounded=True)]


class IndependentCodes(Rebuildable):
    r"""Independent codes, with their own probabilities at each position.

    .. math:: p(k) = \prod_i \mathrm{softmax}(l_i)_{k_i}

    Parameters
    ----------
    code_shape
        The shape of the codes of one datum.
    num_codes
        K.

    Raises
    ------
    ValueError
        For a size that is not a positive integer.

    Examples
    --------
    >>> IndependentCodes((7, 7), 128)().log_prob(torch.zeros(7, 7)).item()  # -49 log 128
    -237.7...
    """

    def __init__(self, code_shape: CodeShape, num_codes: PositiveInteger) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*code_shape, num_codes))

    def forward(self) -> dist.Distribution:
        return dist.Categorical(logits=self.logits).to_event(self.logits.dim() - 1)


class AutoregressiveCodes(Rebuildable):
    r"""Codes in raster order, each predicted from all before it by a causal transformer.

    .. math:: p(k) = \prod_i \mathrm{softmax}\bigl(f_i(k_1, \dots, k_{i-1})\bigr)_{k_i}

    Position i reads code i - 1 and attends to positions up to i. The paper uses a PixelCNN, which takes many layers to
    see all codes before, and needs an image.

    Parameters
    ----------
    code_shape
        The shape of the codes of one datum; the last dimension runs fastest.
    num_codes
        K.
    hidden_dim
        The width of the transformer, a multiple of ``num_heads``; its feed-forward layers are four times as wide.
    num_layers, num_heads
        The number of layers, and of attention heads in each.

    Raises
    ------
    ValueError
        For a size that is not a positive integer, or a width that is not a multiple of ``num_heads``.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017, section 3.3. Vaswani et al.,
    *Attention Is All You Need*, 2017.

    Examples
    --------
    >>> p = AutoregressiveCodes((2, 2), num_codes=3, hidden_dim=8)()
    >>> p.sample((5,)).shape, p.log_prob(torch.zeros(5, 2, 2)).shape
    (torch.Size([5, 2, 2]), torch.Size([5]))
    """

    mask: Tensor

    def __init__(
        self,
        code_shape: CodeShape,
        num_codes: PositiveInteger,
        hidden_dim: PositiveInteger = 64,
        num_layers: PositiveInteger = 2,
        num_heads: PositiveInteger = 4,
    ) -> None:
        super().__init__()
        self.code_shape = tuple(map(int, code_shape))
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim: found {hidden_dim}, expected a multiple of num_heads={num_heads}")
        num_positions = math.prod(self.code_shape)
        self.start = nn.Parameter(torch.randn(hidden_dim))  # what the first position reads
        self.embedding = nn.Embedding(num_codes, hidden_dim)
        self.positions = nn.Parameter(torch.randn(num_positions, hidden_dim))
        layer = nn.TransformerEncoderLayer(
            hidden_dim, num_heads, 4 * hidden_dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm, self.output = nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, num_codes)
        nn.init.zeros_(self.output.weight), nn.init.zeros_(self.output.bias)
        mask = torch.ones(num_positions, num_positions, dtype=torch.bool).triu(1)  # True where attention is forbidden
        self.register_buffer("mask", mask, persistent=False)

    def logits(self, codes: Tensor) -> Tensor:
        """Return the logits of the first n + 1 positions, at most P, given the first n codes, ``(N, n)`` integers."""
        num_read = min(codes.shape[1] + 1, len(self.positions))
        before = self.embedding(codes[:, : num_read - 1])  # (N, n, hidden_dim)
        h = torch.cat([self.start.expand(len(codes), 1, -1), before], 1) + self.positions[:num_read]
        h = self.layers(h, self.mask[:num_read, :num_read], is_causal=True)
        return self.output(self.norm(h))

    def forward(self) -> dist.Distribution:
        return AutoregressiveCategorical(self)


class AutoregressiveCategorical(TorchDistribution):
    """The distribution of :class:`AutoregressiveCodes`: a density takes one run of the network, a draw takes P."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, prior: AutoregressiveCodes, batch_shape: Any = (), validate_args: bool | None = None) -> None:
        self.prior = prior
        super().__init__(torch.Size(batch_shape), torch.Size(prior.code_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        codes = constraints.integer_interval(0, self.prior.embedding.num_embeddings - 1)
        return constraints.independent(codes, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressiveCategorical:
        return AutoregressiveCategorical(self.prior, batch_shape, self._validate_args)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self.shape(sample_shape)
        num_draws = math.prod(shape) // math.prod(self.event_shape)
        codes = torch.zeros(num_draws, 0, dtype=torch.long, device=self.prior.start.device)
        for _ in range(math.prod(self.event_shape)):
            probs = self.prior.logits(codes)[:, -1].softmax(-1)  # (N, K)
            codes = torch.cat([codes, torch.multinomial(probs, 1)], 1)
        return codes.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        num_batch_dims = value.dim() - len(self.event_shape)
        codes = value.long().reshape(-1, math.prod(self.event_shape))  # (N, P)
        losses = functional.cross_entropy(self.prior.logits(codes).movedim(-1, 1), codes, reduction="none")  # (N, P)
        log_prob = -losses.sum(-1).reshape(value.shape[:num_batch_dims])
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))
