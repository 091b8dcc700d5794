r"""Programs that observe indicators of categories instead of codes, so that means are probabilities.

The mean of codes says nothing: halfway between the codes 0, Paris, and 2, Rome, there is no 1, London. An indicator has
a mean, the probability of its category, and a weighted mean over latents imputes it:

.. math:: \mathbb{E}\bigl[\mathbb{1}[x = c] \bigm| x_o\bigr] = P(x = c | x_o)
          \approx \sum_k \tilde w_k\, P(x = c|z_k) .

So :func:`pyro_vae.impute`, of programs that observe indicators, gives probabilities with their standard errors, and
draws of categories. The weights are the same: the density of the indicators is the probability of the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.inference.handlers import ProgramWrapper, StochasticFunction
from pyro_vae.likelihoods.heterogeneous import Columns

__all__ = ["IndicatorColumns", "OnIndicators", "from_indicators", "to_indicators"]


def to_indicators(x: Tensor, num_categories: Sequence[int]) -> Tensor:
    """Return columns ``(*batch, D)`` with codes as indicators, ``(*batch, F)``.

    >>> to_indicators(torch.tensor([[0.5, 2.0]]), (0, 3))
    tensor([[0.5000, 0.0000, 0.0000, 1.0000]])
    """
    pieces = [
        torch.nn.functional.one_hot(column.long(), number).to(x) if number else column[..., None]
        for column, number in zip(x.unbind(-1), num_categories, strict=True)
    ]
    return torch.cat(pieces, -1)


def from_indicators(x: Tensor, num_categories: Sequence[int]) -> Tensor:
    """Return the columns ``(*batch, D)`` of indicators ``(*batch, F)``: of probabilities, the most probable codes."""
    pieces = x.split([number or 1 for number in num_categories], -1)
    chosen = [
        piece.argmax(-1, keepdim=True).to(x) if number else piece
        for piece, number in zip(pieces, num_categories, strict=True)
    ]
    return torch.cat(chosen, -1)


class IndicatorColumns(dist.TorchDistribution):
    """The distribution of columns with indicators for codes.

    Parameters
    ----------
    columns
        The distribution of the columns.
    num_categories
        For each column the number of categories if it is nominal, else 0.
    scored
        The same without the entries that are missing; by default there are none.

    Examples
    --------
    >>> from pyro_vae.likelihoods import Nominal
    >>> city = Nominal(None, (1,), 3).from_output(torch.tensor([[0.2], [0.5], [0.3]]).log())
    >>> p = IndicatorColumns(Columns([city]), (3,))
    >>> p.mean, p.log_prob(torch.tensor([0.0, 1.0, 0.0])).exp()
    (tensor([0.2000, 0.5000, 0.3000]), tensor(0.5000))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, columns: Columns, num_categories: Sequence[int], scored: Columns | None = None) -> None:
        self.columns, self.num_categories = columns, tuple(num_categories)
        self.scored = columns if scored is None else scored
        num_features = sum(number or 1 for number in self.num_categories)
        super().__init__(columns.batch_shape, torch.Size((num_features,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> IndicatorColumns:
        return IndicatorColumns(self.columns.expand(batch_shape), self.num_categories, self.scored.expand(batch_shape))

    def masked(self, mask: Tensor) -> IndicatorColumns:
        """Return the distribution without the columns where ``mask``, ``(*batch, F)``, is false."""
        widths = [number or 1 for number in self.num_categories]
        first = [end - width for end, width in zip(accumulate(widths), widths, strict=True)]
        return IndicatorColumns(self.columns, self.num_categories, self.columns.masked(mask[..., first]))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.scored.log_prob(from_indicators(value, self.num_categories))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return to_indicators(self.columns.sample(sample_shape), self.num_categories)

    @property
    def mean(self) -> Tensor:
        pieces, start = [], 0
        for group, length in zip(self.columns.groups, self.columns.lengths, strict=True):
            is_nominal = self.num_categories[start] > 0
            pieces.append(group.base_dist.probs.flatten(-2) if is_nominal else group.mean)
            start += length
        return torch.cat(pieces, -1)


class _Indicate(Messenger):
    """Let the observed site be of indicators."""

    def __init__(self, x: Tensor, num_categories: Sequence[int]) -> None:
        super().__init__()
        self.x, self.num_categories = x, num_categories

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not site_is_subsample(msg) and not msg["infer"].get("_deterministic"):
            fn = msg["fn"]
            if not isinstance(fn, Columns) or fn.event_shape != (len(self.num_categories),):
                raise ProgramError(
                    f"site {msg['name']!r}: found {type(fn).__name__} of event shape {tuple(fn.event_shape)}, expected "
                    f"the {len(self.num_categories)} columns of the table, as table.likelihood(network) gives them"
                )
            msg["fn"], msg["value"] = IndicatorColumns(fn, self.num_categories), self.x


class OnIndicators(ProgramWrapper):
    """A program of codes that is called with indicators, ``(B, F)``."""

    def __init__(self, program: StochasticFunction, num_categories: Sequence[int]) -> None:
        super().__init__(program)
        self.num_categories = tuple(num_categories)

    def forward(self, x: Tensor) -> Any:
        with _Indicate(x, self.num_categories):
            return self.program(from_indicators(x, self.num_categories))
