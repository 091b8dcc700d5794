"""Cells drawn from a known model, for ``cells.py``: types, batches, library sizes, and what is true of them.

    type ~ (0.4, 0.3, 0.2, 0.1),  z ~ N(centre of the type, 0.5²) in 4 dimensions,  log l ~ N(mean of the batch, 0.3²)
    ρ = softmax(a + A z + B tanh(C z) + effect of the batch),  x_g ~ NB(l ρ_g, θ_g)

For 60 % of the genes A and B are zero. They share 60 % of the molecules whatever z is, so that their expression is
exactly the same in all types.

As a program it is a ``CellVAE`` with these parts, whose guide is trained on cells that it draws, so that it has an
importance-sampled log p(x) with its error too.
"""

from __future__ import annotations

import math
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse
import torch
from torch import Tensor, nn

import pyro_vae
from pyro_vae.cells.encoder import CellEncoder
from pyro_vae.cells.likelihood import CellCounts
from pyro_vae.nn.scales import inverse_bounded_scale

LATENT_DIM, NUM_BATCHES, SCALE = 4, 3, 0.5
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1])
LIBRARY = torch.tensor([1500.0, 3000.0, 2000.0])
Array = npt.NDArray[Any]


class TrueDecoder(nn.Module):
    """The logits of ρ from z and the indicators of the batch."""

    def __init__(self, num_genes: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        moves = torch.arange(num_genes) >= num_genes * 6 // 10
        parts = {"moves": moves, "base": 1.0 * normal(num_genes), "linear": 0.4 * moves * normal(LATENT_DIM, num_genes),
                 "inner": normal(LATENT_DIM, 8), "outer": 0.1 * moves * normal(8, num_genes),
                 "batch": 0.4 * normal(NUM_BATCHES, num_genes)}  # fmt: skip
        for name, value in parts.items():
            self.register_buffer(name, value)
        self.register_buffer("theta", 2 + 8 * torch.rand(num_genes, generator=random))
        self.register_buffer("centres", 1.3 * normal(len(SHARES), LATENT_DIM))

    def forward(self, inputs: Tensor) -> Tensor:
        z, batch = inputs.split([LATENT_DIM, NUM_BATCHES], -1)
        logits = self.base + z @ self.linear + torch.tanh(z @ self.inner) @ self.outer + batch @ self.batch
        of_each = [
            logits.masked_fill(mask, -math.inf).logsumexp(-1, keepdim=True) for mask in (self.moves, ~self.moves)
        ]
        return logits + torch.where(self.moves, math.log(0.4) - of_each[1], math.log(0.6) - of_each[0])


class Truth:
    """The model that cells are drawn from."""

    def __init__(self, num_genes: int, seed: int = 0) -> None:
        self.num_genes, self.decoder = num_genes, TrueDecoder(num_genes, seed)

    def latents(self, types: Tensor) -> Tensor:
        return self.decoder.centres[types] + SCALE * torch.randn(len(types), LATENT_DIM)

    def log_expression(self, z: Tensor, batch: Tensor) -> Tensor:
        ones = torch.nn.functional.one_hot(batch, NUM_BATCHES).float()
        return self.decoder(torch.cat([z, ones], -1)).log_softmax(-1)

    def cells(self, num_cells: int, seed: int) -> anndata.AnnData:
        """Draw cells, with the true log ρ in a layer and the true library size in ``obs``."""
        torch.manual_seed(seed)
        types = torch.multinomial(SHARES, num_cells, replacement=True)
        batch = torch.randint(NUM_BATCHES, (num_cells,))
        library = (LIBRARY[batch].log() + 0.3 * torch.randn(num_cells)).exp()
        log_rho = self.log_expression(self.latents(types), batch)
        theta = self.decoder.theta.expand(log_rho.shape)
        counts = torch.poisson(torch._standard_gamma(theta) * library[:, None] * log_rho.exp() / theta)
        names = {"batch": [f"batch {b}" for b in batch.tolist()], "type": [f"type {t}" for t in types.tolist()]}
        obs = pd.DataFrame({**names, "library": library.numpy()}, [f"cell {n}" for n in range(num_cells)])
        var = pd.DataFrame(index=[f"gene {g}" for g in range(self.num_genes)])
        adata = anndata.AnnData(scipy.sparse.csr_matrix(counts.numpy()), obs, var)
        adata.layers["log_expression"] = log_rho.numpy()
        return adata

    def program(self) -> pyro_vae.CellVAE:
        """Return the model as a program, with a guide that is still to be trained."""
        sizes: dict[str, Any] = {"categories": (NUM_BATCHES,)}
        prior = pyro_vae.GaussianMixture(len(SHARES), LATENT_DIM)
        likelihood = CellCounts(self.decoder, self.num_genes, **sizes)
        with torch.no_grad():
            prior.logits.copy_(SHARES.log())
            prior.loc.copy_(self.decoder.centres)
            prior.raw_scale.copy_(inverse_bounded_scale(torch.full_like(prior.loc, SCALE), prior.low, prior.high))
            likelihood.raw_inverse_dispersion.copy_(inverse_bounded_scale(self.decoder.theta, 1e-3, 1e3))
        num_outputs = pyro_vae.FullNormal.num_outputs(LATENT_DIM)
        network = pyro_vae.MLP(self.num_genes + 1 + NUM_BATCHES, num_outputs, (128,), "tanh")
        posterior = pyro_vae.FullNormal(CellEncoder(network, self.num_genes, **sizes, typical_library=2000.0))
        vae = pyro_vae.CellVAE(self.num_genes, likelihood=likelihood, prior=prior, posterior=posterior,
                               typical_library=2000.0, **sizes)  # fmt: skip
        vae.model.requires_grad_(False)
        return vae

    def fold_changes(self, first: str, second: str, num_draws: int = 20_000) -> Tensor:
        """Draw the log₂ fold changes between random cells of two types, seen in one batch, ``(M, G)``."""
        torch.manual_seed(1)
        batch = torch.randint(NUM_BATCHES, (num_draws,))
        of = [
            self.log_expression(self.latents(torch.full((num_draws,), int(name[-1]))), batch)
            for name in (first, second)
        ]
        return (of[0] - of[1]) / math.log(2)


def truth_packed(cells: pyro_vae.Cells, true_library: bool) -> Tensor:
    """Return packed cells, with the library size that they were drawn with in the place of the observed one."""
    x = torch.from_numpy(np.asarray(cells.matrix.todense())).float()
    if true_library:
        x[:, len(cells.design.genes)] = torch.from_numpy(cells.adata.obs["library"].to_numpy()).float()
    return x
