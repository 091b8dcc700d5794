r"""The variational autoencoder of single cells: counts given the library size, the batch and other covariates.

.. math:: p(x, z | l, s) = p(z)\, p(x | z, l, s), \qquad q(z | x, l, s)

l is the library size of a cell, the sum of its counts, and s are its covariates, such as the batch it was measured in.
Both are given and have no density of their own. As they enter the model, the latents hold what they leave open, the
state of the cell; as they enter the guide, it need not find out from the counts what is known. The likelihood is in
:mod:`pyro_vae.cells.likelihood`.

Lopez, Regier, Cole, Jordan and Yosef, *Deep generative modeling for single-cell transcriptomics*, 2018.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from pyro import plate, poutine, sample
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.cells.encoder import CellEncoder
from pyro_vae.cells.layout import Layout
from pyro_vae.cells.likelihood import CellCounts, GeneDispersion
from pyro_vae.data.arrays import as_tensor
from pyro_vae.data.batch import Batch
from pyro_vae.inference.isolation import isolated
from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.parts import Part, check_stands_alone
from pyro_vae.programs.program import NumSamples, Program
from pyro_vae.runtime.arguments import Array, NonNegativeInteger, PositiveInteger, PositiveNumber, Widths, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating

__all__ = ["CellVAE"]


class Model(PyroModule):
    """The generative program of cells with given covariates s: z ~ p(z), x ~ p(x|z, l, s)."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module, layout: Layout, typical_library: float) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood
        self.layout, self.data_shape = layout, (layout.num_genes,)
        self.register_buffer("typical", torch.tensor([typical_library]), persistent=False)

    def generate(self, num_data: int, x: Tensor | None = None, covariates: Tensor | None = None) -> Tensor:
        if covariates is None:
            if self.layout.num_covariates > 1:
                raise ValueError(f"covariates: found none, expected those of each cell: {self.layout.describe()}")
            covariates = self.typical.expand(num_data, 1)
        with plate("data", num_data, dim=-1):
            z = sample("z", self.prior())  # (B, latent_dim), or (K, B, latent_dim) under K particles
            return sample("x", self.likelihood(z, covariates), obs=x)

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        x, covariates = self.layout.unpack(x, covariates)
        return self.generate(len(x), x, covariates)


class Guide(PyroModule):
    """The amortised posterior: z ~ q(z|x, l, s)."""

    def __init__(self, posterior: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.posterior, self.layout = posterior, layout

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        x, covariates = self.layout.unpack(x, covariates)
        with plate("data", len(x), dim=-1):
            return sample("z", self.posterior(x, covariates))


class CellVAE(Program):
    r"""A variational autoencoder of the counts of single cells.

    .. math:: \log p(x|l, s) \ge \mathbb{E}_{q(z|x, l, s)}\bigl[\log p(x|z, l, s) + \log p(z) - \log q(z|x, l, s)\bigr]

    Call the programs with counts ``(B, num_genes)`` and covariates, ``model(x, covariates)``, or with both packed in
    one tensor, counts first. The covariates of a cell are its library size, the codes of its categories and its
    continuous ones. :class:`pyro_vae.Cells` makes them from an AnnData, and has the program's sizes.

    Parameters
    ----------
    num_genes
        How many genes are counted.
    latent_dim
        The length of z.
    hidden_dims
        The widths of the encoder's hidden layers; the decoder has the same in reverse.
    likelihood
        ``"nb"``, negative binomial; ``"zinb"``, zero-inflated; or a module whose forward takes z and covariates and
        returns p(x|z, l, s).
    categories
        How many categories each categorical covariate has; the first is the batch.
    num_continuous
        How many continuous covariates there are. They are to be standardised.
    inverse_dispersion
        Whether θ is of the ``"gene"`` or of the gene in each batch, ``"gene-batch"``.
    activation
        The activation of the hidden layers.
    typical_library
        The library size of samples that are drawn without one, and the unit of that in the encoder.
    prior, posterior
        Modules whose forwards return p(z) and, of counts and covariates, q(z|x, l, s).
    design
        The checksum of the design of the cells, :attr:`pyro_vae.cells.Design.checksum`, by which
        :class:`pyro_vae.Cells` refuses cells whose genes or batches are others, or in another order.

    Raises
    ------
    ValueError
        For an unknown likelihood, and ``"gene-batch"`` without batches. When run: as in
        :meth:`pyro_vae.cells.layout.Layout.unpack`.

    References
    ----------
    Lopez et al., *Deep generative modeling for single-cell transcriptomics*, 2018.

    Examples
    --------
    >>> import pyro_vae
    >>> vae = CellVAE(num_genes=5, latent_dim=2, hidden_dims=(8,))
    >>> counts = torch.tensor([[0.0, 3.0, 1.0, 0.0, 9.0]])
    >>> pyro_vae.ELBO().bound(vae.model, vae.guide, counts).shape  # the library size is the sum, 13
    torch.Size([1])
    >>> vae.sample(4, covariates=[13.0]).shape
    torch.Size([4, 5])
    """

    model: Model
    guide: Guide

    def __init__(
        self,
        num_genes: PositiveInteger,
        latent_dim: PositiveInteger = 10,
        hidden_dims: Widths = (128,),
        likelihood: Literal["nb", "zinb"] | Part = "nb",
        *,
        categories: Widths = (),
        num_continuous: NonNegativeInteger = 0,
        inverse_dispersion: GeneDispersion = "gene",
        activation: Activation = "tanh",
        typical_library: PositiveNumber = 1e4,
        prior: Part | None = None,
        posterior: Part | None = None,
        design: str | None = None,
    ) -> None:
        check_stands_alone(prior)
        layout = Layout(num_genes, tuple(map(int, categories)), num_continuous)
        hidden_dims = tuple(map(int, hidden_dims))
        if isinstance(likelihood, str):
            outputs = (2, num_genes) if likelihood == "zinb" else (num_genes,)
            likelihood = CellCounts(
                MLP(latent_dim + layout.num_features, outputs, hidden_dims[::-1], activation), *layout,
                zero_inflated=likelihood == "zinb", inverse_dispersion=inverse_dispersion,
            )  # fmt: skip
        if posterior is None:
            encoder = MLP(num_genes + 1 + layout.num_features, (2, latent_dim), hidden_dims, activation)
            posterior = DiagonalNormal(CellEncoder(encoder, *layout, typical_library))
        model = Model(prior or StandardNormal(latent_dim), likelihood, layout, float(typical_library))
        super().__init__(model, Guide(posterior, layout), ("z",))
        self.layout, self.design = layout, design

    @checked
    def pack(self, x: Array, covariates: Array) -> Tensor:
        """Return counts ``(N, num_genes)`` and covariates ``(N, num_covariates)`` in one tensor.

        Raises
        ------
        ValueError
            As in :meth:`pyro_vae.cells.layout.Layout.unpack`.
        """
        x, covariates = as_tensor(x, "x"), as_tensor(covariates, "covariates")
        dtype = torch.promote_types(torch.promote_types(x.dtype, covariates.dtype), torch.float32)
        return torch.cat(self.layout.unpack(x.to(dtype), covariates.to(dtype)), -1)

    @checked
    @torch.no_grad()
    def sample(
        self,
        num_samples: NumSamples,
        *,
        layer: int | None = None,
        mean: bool = False,
        batch_size: PositiveInteger = 1000,
        covariates: Any = None,
    ) -> Tensor:
        """Draw counts ``(num_samples, num_genes)`` from p(x|l, s); with ``mean=True`` return each draw's mean.

        ``covariates`` are those of one cell, or of each. They can be left out where the library size, by default
        ``typical_library``, is the only one.

        Raises
        ------
        ValueError
            If ``num_samples`` is negative, there is no such layer, or the covariates are missing or wrong.
        """
        if covariates is None:
            return self._sample(num_samples, layer, mean, batch_size, {})
        device, dtype = placement(self)
        given = as_tensor(covariates, "covariates", device).to(dtype)
        width = self.layout.num_covariates
        if given.shape[-1:] != (width,) or tuple(given.shape[:-1]) not in ((), (num_samples,)):
            raise ValueError(
                f"covariates: found the shape {tuple(given.shape)}, expected ({width},) or ({num_samples}, {width}): "
                f"{self.layout.describe()}"
            )
        self.layout.check(given)
        return self._sample(num_samples, layer, mean, batch_size, {"covariates": given.expand(max(num_samples, 1), -1)})

    def _tensor(self, batch: Batch) -> Tensor:
        return batch if isinstance(batch, Tensor) else self.pack(*batch.args, **batch.kwargs)

    def _reconstruct(self, x: Tensor, layer: int) -> Tensor:
        _, covariates = self.layout.unpack(x)
        mean: Tensor = self._generate(len(x), self._means(x) | {"covariates": covariates})["fn"].mean
        return mean

    def _trace_model(self, num_data: int, known: dict[str, Tensor]) -> poutine.Trace:
        latents = {name: value for name, value in known.items() if name != "covariates"}
        covariates = known["covariates"][:num_data] if "covariates" in known else None
        generate = isolated(functools.partial(self.model.generate, covariates=covariates))
        with exclusive("sample", brief=True), evaluating(self):
            return poutine.trace(poutine.condition(generate, data=latents)).get_trace(num_data)
