"""Small cells: an AnnData with two types, three batches and an age, and programs of them."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyro.distributions as dist
import scipy.sparse
import torch
from torch import Tensor, nn

import pyro_vae
from pyro_vae import CellVAE

GENES = 6
KEYS: dict[str, Any] = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}


def adata(num_cells: int = 40, sparse: bool = False, seed: int = 0) -> anndata.AnnData:
    """Counts of six genes, the first of which tells the types apart."""
    rng = np.random.default_rng(seed)
    types = np.arange(num_cells) % 2
    counts = rng.poisson(2.0, (num_cells, GENES)) + (np.arange(GENES) == 0) * types[:, None] * 8
    counts[:, 1] += 1  # no cell is empty
    x = counts.astype(np.float32)
    obs = pd.DataFrame({
        "batch": [f"b{n % 3}" for n in range(num_cells)], "type": [("A", "B")[t] for t in types],
        "age": 40 + 10 * rng.normal(size=num_cells),
    }, [f"cell{n}" for n in range(num_cells)])  # fmt: skip
    var = pd.DataFrame(index=[f"gene{g}" for g in range(GENES)])
    return anndata.AnnData(scipy.sparse.csr_matrix(x) if sparse else x, obs, var)


def cells(num_cells: int = 40, sparse: bool = False) -> pyro_vae.Cells:
    return pyro_vae.Cells.from_anndata(adata(num_cells, sparse), **KEYS)


def program(seed: int = 1, **options: Any) -> CellVAE:
    """A program of such cells, whose every weight differs from where it starts."""
    torch.manual_seed(seed)
    options = {"latent_dim": 2, "hidden_dims": (5,), "typical_library": 20.0} | options
    vae = CellVAE(GENES, categories=(3,), num_continuous=1, **options)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


def covariates(library: Tensor, code: int | Tensor = 0, age: float = 0.5) -> Tensor:
    """The covariates of cells, ``(B, 3)``."""
    ones = torch.ones_like(library)
    return torch.stack([library, code * ones, age * ones], -1)


class LinearDecoder(nn.Module):
    """Logits a + w z + v batch, of one latent and two batches."""

    def __init__(self, base: Tensor, weight: Tensor, batch: Tensor | None = None) -> None:
        super().__init__()
        for name, value in {"base": base, "weight": weight, "batch": batch}.items():
            self.register_buffer(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.base + inputs[..., :1] * self.weight
        return logits if self.batch is None else logits + inputs[..., 1:] @ self.batch


class ByMarker(nn.Module):
    """q(z|x) around 1 or -1, as the first gene has more than five counts or not."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, covariates: Tensor) -> Any:
        loc = torch.where(x[..., :1] > 5, 1.0, -1.0).to(x)
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(1)
