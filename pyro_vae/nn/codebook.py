r"""A codebook: K vectors that stand for all others, learnt by following what is nearest to each.

.. math:: k(z_e) = \arg\min_k \lVert z_e - e_k \rVert

Vector quantisation has no gradient by which the codes could be learnt. Each code follows a moving average of the
vectors that chose it, in batch after batch, :math:`n_k` vectors :math:`z_{k,1}, z_{k,2}, \dots`:

.. math:: N_k \leftarrow \gamma N_k + (1 - \gamma)\, n_k, \qquad
          m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_j z_{k,j}, \qquad e_k = m_k / N_k

(van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017, appendix A.1): k-means, a batch
at a time. A code that nothing chooses would stay where it is for ever. One that is used less than a small part of what
codes are on the mean is dead, and starts again at a vector drawn from the batch (Dhariwal et al., *Jukebox*, 2020,
section 3.1). As all averages begin at zero, the first update puts each code at the mean of what chose it, and the codes
that nothing chose at vectors of the first batch: no other initialisation is needed.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.runtime.arguments import PositiveInteger
from pyro_vae.runtime.kinds import Numbers

__all__ = ["ChosenVectors", "CodeVectors", "Codebook"]


class Codebook(Rebuildable):
    r"""K codes, vectors of length D, as buffers: no optimiser moves them, a checkpoint holds them.

    .. math:: k(z_e) = \arg\min_k \lVert z_e - e_k \rVert

    Parameters
    ----------
    num_codes, code_dim
        K and D.
    decay
        γ of the moving averages, in [0, 1).
    restart_below
        A code starts again when :math:`N_k` is below this part of the codes' mean, in (0, 1). It is then counted as
        used like the mean, so that it has some :math:`\log(\text{restart\_below}) / \log\gamma` updates to prove
        itself.

    Raises
    ------
    ValueError
        For a size that is not a positive integer, or a number outside of its range.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017. Dhariwal et al., *Jukebox:
    A Generative Model for Music*, 2020.

    Examples
    --------
    >>> codebook = Codebook(num_codes=2, code_dim=3)
    >>> codebook.update(torch.tensor([[9.0, 9.0, 9.0], [-9.0, -9.0, -9.0]]))
    >>> codebook.vectors[codebook(torch.tensor([7.0, 8.0, 9.0]))]
    tensor([9., 9., 9.])
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        num_codes: PositiveInteger,
        code_dim: PositiveInteger,
        decay: Annotated[float, Numbers("a number in [0, 1)", 0, 1, "high")] = 0.99,
        restart_below: Annotated[float, Numbers("a number in (0, 1)", 0, 1, "both")] = 0.05,
    ) -> None:
        super().__init__()
        self.num_codes, self.code_dim = num_codes, code_dim
        self.decay, self.restart_below = decay, restart_below
        self.register_buffer("vectors", torch.randn(num_codes, code_dim))
        self.register_buffer("counts", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_dim))

    def forward(self, z: Tensor) -> Tensor:
        """The codes nearest to vectors, ``(*batch, code_dim)`` to integers ``(*batch)``; the first of several."""
        return _nearest(z, self.vectors)[1]

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Move the codes by one batch of vectors, ``(*batch, code_dim)``: the moving averages, then new starts."""
        z = z.reshape(-1, self.code_dim)  # (M, D)
        chosen = (self(z)[:, None] == torch.arange(self.num_codes, device=z.device)).to(z)  # (M, K)
        counts = self.decay * self.counts + (1 - self.decay) * chosen.sum(0)  # (K,)
        sums = self.decay * self.sums + (1 - self.decay) * chosen.T @ z  # (K, D)
        mean = counts.mean()
        dead = counts < self.restart_below * mean
        drawn = z[torch.randint(len(z), (self.num_codes,), device=z.device)]  # (K, D)
        self.counts.copy_(torch.where(dead, mean, counts))
        self.sums.copy_(torch.where(dead[:, None], mean * drawn, sums))
        self.vectors.copy_(self.sums / self.counts[:, None])

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.code_dim}, decay={self.decay}, restart_below={self.restart_below}"


def _nearest(z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each of ``(*batch, D)`` to the nearest of ``(K, D)``, and which that is, ``(*batch)`` each.

    By differences and not by products, whose rounding would part a code from itself: its distance is zero here.
    """
    flat = z.detach().reshape(-1, z.shape[-1])
    distances = torch.cdist(flat, vectors, compute_mode="donot_use_mm_for_euclid_dist")  # (M, K)
    least, index = distances.min(-1)
    return least.reshape(z.shape[:-1]), index.reshape(z.shape[:-1])


class CodeVectors(TorchDistribution):
    r"""A distribution of codes as one of their vectors: ``(*code_shape, D)`` instead of integers ``code_shape``.

    .. math:: p(z = e_k) = p(k), \qquad p(z) = 0 \text{ of all else}

    Parameters
    ----------
    codes
        The distribution of the codes, integers below K.
    vectors
        The codes' vectors, ``(K, D)``.

    Examples
    --------
    >>> p = CodeVectors(dist.Categorical(torch.tensor([[0.1, 0.9], [0.5, 0.5]])).to_event(1), torch.eye(2))
    >>> p.event_shape, p.log_prob(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).exp()
    (torch.Size([2, 2]), tensor(0.4500))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, codes: Any, vectors: Tensor, validate_args: bool | None = None) -> None:
        self.codes, self.vectors = codes, vectors
        super().__init__(codes.batch_shape, codes.event_shape + vectors.shape[1:], validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> CodeVectors:
        new = self._get_checked_instance(CodeVectors, _instance)
        new.codes, new.vectors = self.codes.expand(batch_shape), self.vectors
        super(CodeVectors, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.vectors[self.codes.sample(sample_shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        distances, codes = _nearest(value, self.vectors)  # (*batch, *code_shape) each
        log_prob = self.codes.log_prob(codes)
        is_code = (distances == 0).flatten(distances.dim() - len(self.codes.event_shape)).all(-1)
        return torch.where(is_code, log_prob, -torch.inf)


class ChosenVectors(dist.Delta):
    """A one-point distribution whose log-density, a constant zero with a gradient, enters its KL as well.

    Pyro's own takes log q to be zero there, gradient and all.
    """


@register_kl(ChosenVectors, dist.Distribution)
def _kl(q: ChosenVectors, p: Any) -> Tensor:
    return q.log_density - p.log_prob(q.v)
