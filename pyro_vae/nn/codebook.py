r"""A codebook: K vectors, each of which stands for the vectors nearest to it.

.. math:: k(z_e) = \arg\min_k \lVert z_e - e_k \rVert

Quantisation has no gradient for the codes to learn from. Instead each code is a moving average of the vectors nearest
to it, of which a batch has :math:`n_k`, :math:`z_{k,1}, z_{k,2}, \dots`:

.. math:: N_k \leftarrow \gamma N_k + (1 - \gamma)\, n_k, \qquad
          m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_j z_{k,j}, \qquad e_k = m_k / N_k

This is k-means, a batch at a time (van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*,
2017, appendix A.1). A code that is nearest to nothing would never move. A code used much less than the average code
counts as dead and restarts at a vector drawn from the batch (Dhariwal et al., *Jukebox*, 2020, section 3.1).

All averages start at zero, so the first update initialises the codebook: each code moves to the mean of its vectors,
and unused codes move to vectors of the batch.
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
from pyro_vae.runtime.batch_sums import of_first, summed
from pyro_vae.runtime.kinds import Numbers

__all__ = ["ChosenVectors", "CodeVectors", "Codebook"]


class Codebook(Rebuildable):
    r"""A codebook of K vectors of length D, held as buffers: checkpoints save them and optimisers leave them alone.

    .. math:: k(z_e) = \arg\min_k \lVert z_e - e_k \rVert

    Parameters
    ----------
    num_codes, code_dim
        K and D.
    decay
        The decay γ of the moving averages, in [0, 1).
    restart_below
        A code restarts when :math:`N_k` falls below this fraction of the mean over the codes, in (0, 1). Its count is
        then set to that mean, so an unused code restarts again after about
        :math:`\log(\text{restart\_below}) / \log\gamma` updates.

    Raises
    ------
    ValueError
        For a size that is not a positive integer, or a number outside its range.

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
        """Return the nearest codes, integers ``(*batch)``, of vectors ``(*batch, code_dim)``; ties go to the first."""
        return _nearest(z, self.vectors)[1]

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Update the moving averages by a batch of vectors, ``(*batch, code_dim)``, and restart dead codes."""
        z = z.reshape(-1, self.code_dim)  # (M, D)
        chosen = (self(z)[:, None] == torch.arange(self.num_codes, device=z.device)).to(z)  # (M, K)
        counts = self.decay * self.counts + (1 - self.decay) * summed(chosen.sum(0))  # (K,)
        sums = self.decay * self.sums + (1 - self.decay) * summed(chosen.T @ z)  # (K, D)
        mean = counts.mean()
        dead = counts < self.restart_below * mean
        drawn = of_first(z[torch.randint(len(z), (self.num_codes,), device=z.device)])  # (K, D)
        self.counts.copy_(torch.where(dead, mean, counts))
        self.sums.copy_(torch.where(dead[:, None], mean * drawn, sums))
        self.vectors.copy_(self.sums / self.counts[:, None])

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.code_dim}, decay={self.decay}, restart_below={self.restart_below}"


def _nearest(z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of each vector ``(*batch, D)`` to the nearest of ``(K, D)``, and its index, ``(*batch)``.

    Distances are computed from differences, so that a code's distance to itself is exactly zero.
    """
    flat = z.detach().reshape(-1, z.shape[-1])
    distances = torch.cdist(flat, vectors, compute_mode="donot_use_mm_for_euclid_dist")  # (M, K)
    least, index = distances.min(-1)
    return least.reshape(z.shape[:-1]), index.reshape(z.shape[:-1])


class _Entries(type(constraints.real)):  # type: ignore[misc]
    """Real numbers, of which only those of the codes have a probability."""

    is_discrete = True


_entries = _Entries()


class CodeVectors(TorchDistribution):
    r"""A distribution of codes over their vectors, ``(*code_shape, D)``, instead of integers, ``code_shape``.

    .. math:: p(z = e_k) = p(k), \qquad p(z) = 0 \text{ elsewhere}

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
        return constraints.independent(_entries, len(self.event_shape))

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
    """A point mass whose log-density enters the KL too; it is zero in value but carries a gradient.

    Pyro's own KL drops the log-density, and the gradient with it.
    """


@register_kl(ChosenVectors, dist.Distribution)
def _kl(q: ChosenVectors, p: Any) -> Tensor:
    return q.log_density - p.log_prob(q.v)
