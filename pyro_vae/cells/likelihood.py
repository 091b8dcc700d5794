r"""The likelihood of the counts of a cell, given its latents, its library size and its covariates.

The decoder says which share of a cell's molecules each gene has, and the library size l says how many there are,

.. math:: \rho(z, s) = \mathrm{softmax}\, f(z, s), \qquad \log \mu_g = \log l + \log \rho_g(z, s) .

So l is an *offset*: twice the library size is twice the mean, and no parameter is spent on it. The counts are negative
binomial, with an inverse dispersion of each gene, or of each gene in each batch,

.. math:: p(x|z, l, s) = \prod_g \mathrm{NB}(x_g; \mu_g, \theta_g), \qquad
          \mathrm{Var}[x_g] = \mu_g + \frac{\mu_g^2}{\theta_g},

or zero-inflated, with a probability :math:`\pi_g(z, s)` that a count is lost and reads as zero. log μ is never turned
into μ, so a mean too small for float32 is as exact as any other; the densities are evaluated in float64
(:mod:`pyro_vae.likelihoods.densities`).

l is the sum of the observed counts. The product is, for every fixed l, a density of all count vectors, also of those
with another sum. **log p(x | l, s) is therefore conditional on l as a given number, and not on the event that the
counts add up to it.** Two models can be compared by it if both have this offset and the same genes.

Lopez, Regier, Cole, Jordan and Yosef, *Deep generative modeling for single-cell transcriptomics*, 2018.
"""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.cells.layout import Layout
from pyro_vae.likelihoods.densities import NegativeBinomial, ZeroInflatedDistribution
from pyro_vae.nn.layers import one_tensor
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.nn.scales import bounded_scale
from pyro_vae.runtime.arguments import NonNegativeInteger, PositiveInteger, Widths

__all__ = ["CellCounts", "GeneDispersion"]

GeneDispersion = Literal["gene", "gene-batch"]


class CellCounts(Rebuildable):
    r"""The counts of a cell, negative binomial around the library size times the shares of the genes.

    .. math:: p(x|z, l, s) = \prod_g \mathrm{NB}\bigl(x_g;\ l\, \rho_g(z, s),\ \theta_g\bigr)

    Parameters
    ----------
    network
        The decoder, from z followed by the features of the covariates, ``(*batch, latent_dim + num_features)``, to the
        logits of ρ, ``(*batch, num_genes)``. With ``zero_inflated`` it gives the logits of π before these, stacked as
        ``(*batch, 2, num_genes)``.
    num_genes, categories, num_continuous
        What a cell has, see :class:`pyro_vae.cells.layout.Layout`.
    zero_inflated
        Whether some counts are lost and read as zero.
    inverse_dispersion
        Whether θ is of the ``"gene"``, or of the gene in each batch, ``"gene-batch"``. It is between 0.001 and 1000,
        and 1 at the start.

    Raises
    ------
    ValueError
        For ``"gene-batch"`` without batches. When called: if the network gives another shape.

    Examples
    --------
    >>> from pyro_vae.nn.mlp import MLP
    >>> likelihood = CellCounts(MLP(2, (4,)), num_genes=4)
    >>> likelihood(torch.zeros(1, 2), torch.tensor([[100.0]])).mean  # a quarter of the library for each gene
    tensor([[25.0000, 25.0000, 25.0000, 25.0000]], grad_fn=<MulBackward0>)
    """

    def __init__(
        self,
        network: nn.Module,
        num_genes: PositiveInteger,
        categories: Widths = (),
        num_continuous: NonNegativeInteger = 0,
        *,
        zero_inflated: bool = False,
        inverse_dispersion: GeneDispersion = "gene",
    ) -> None:
        super().__init__()
        self.network, self.zero_inflated, self.inverse_dispersion = network, zero_inflated, inverse_dispersion
        self.layout = Layout(num_genes, tuple(map(int, categories)), num_continuous)
        self.data_shape = (num_genes,)
        shape: tuple[int, ...] = (num_genes,)
        if inverse_dispersion == "gene-batch":
            if not categories:
                raise ValueError("inverse_dispersion: found 'gene-batch' without batches, expected 'gene'")
            shape = (categories[0], num_genes)
        self.raw_inverse_dispersion = nn.Parameter(torch.zeros(shape))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the network's output for one cell."""
        return (2, *self.data_shape) if self.zero_inflated else self.data_shape

    def log_expression(self, z: Tensor, covariates: Tensor) -> Tensor:
        """Return log ρ ``(*batch, num_genes)``; the batches of z and of the covariates broadcast."""
        return self._outputs(z, covariates)[0].log_softmax(-1)

    def theta(self, covariates: Tensor) -> Tensor:
        """Return θ, ``(num_genes,)`` or, of the gene in each batch, ``(*batch, num_genes)``."""
        raw: Tensor = self.raw_inverse_dispersion
        if self.inverse_dispersion == "gene-batch":
            raw = raw[self.layout.batch(covariates)]
        return bounded_scale(raw, 1e-3, 1e3)

    def forward(self, z: Tensor, covariates: Tensor) -> dist.TorchDistribution:
        raw, gate = self._outputs(z, covariates)
        log_mean = covariates[..., :1].log() + raw.log_softmax(-1)  # (*batch, num_genes)
        theta = self.theta(covariates)
        p = NegativeBinomial(theta, logits=log_mean - theta.log())
        return (p if gate is None else ZeroInflatedDistribution(p, gate_logits=gate)).to_event(1)

    def _outputs(self, z: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of ρ, and of π if counts can be lost."""
        features = self.layout.features(covariates)
        batch = torch.broadcast_shapes(z.shape[:-1], features.shape[:-1])
        inputs = torch.cat([z.expand(*batch, -1), features.expand(*batch, -1)], -1)
        output = one_tensor(self, self.network(inputs))
        if tuple(output.shape) != (*batch, *self.output_shape):
            raise ValueError(
                f"CellCounts: found a network output of shape {tuple(output.shape)} for inputs of shape "
                f"{tuple(inputs.shape)}, expected {(*batch, *self.output_shape)}"
            )
        if not self.zero_inflated:
            return output, None
        gate, raw = output.unbind(-2)
        return raw, gate
