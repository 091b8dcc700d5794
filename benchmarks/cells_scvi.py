"""scvi-tools' SCVI for ``cells.py``: trained as its users train it, and scored as a pair of Pyro programs.

The pair has SCVI's own networks in eval mode, z ~ N(0, 1), z ~ q(z|x, s), and a negative binomial of its means and
inverse dispersions, so that both contestants' log p(x | l, s) come from one estimator.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.likelihoods.densities import NegativeBinomial


def trained(adata: Any, latent_dim: int, hidden_dim: int, num_epochs: int, batch_size: int, seed: int) -> Any:
    """Return an SCVI whose covariates enter both halves, after so many epochs of its own training plan."""
    import scvi

    warnings.simplefilter("ignore")
    scvi.settings.seed = seed
    scvi.settings.verbosity = 40
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, n_hidden=hidden_dim, n_latent=latent_dim, n_layers=1, gene_likelihood="nb",
                            encode_covariates=True)  # fmt: skip
    # half of the epochs warm the KL up, since the default, 400 epochs, would be the whole run
    model.train(num_epochs, accelerator="cpu", train_size=1.0, batch_size=batch_size, enable_progress_bar=False,
                plan_kwargs={"n_epochs_kl_warmup": num_epochs // 2}, logger=None)  # fmt: skip
    return model


class Model(nn.Module):
    """SCVI's decoder as a program of packed cells."""

    def __init__(self, module: nn.Module, num_genes: int) -> None:
        super().__init__()
        self.module, self.num_genes = module, num_genes

    def forward(self, x: Tensor) -> None:
        counts, library, batch = x.split([self.num_genes, 1, 1], -1)
        with pyro.plate("data", len(x), dim=-1):
            zeros = x.new_zeros(self.module.n_latent)
            z = pyro.sample("z", dist.Normal(zeros, zeros + 1).to_event(1))
            flat = z.reshape(-1, z.shape[-1])  # batch normalisation takes two dimensions
            times = len(flat) // len(x)
            found = self.module.generative(flat, library.log().repeat(times, 1), batch.long().repeat(times, 1))["px"]
            log_mean = (found.mu + 1e-8).log().reshape(*z.shape[:-1], -1)  # the 1e-8 is SCVI's own
            log_theta = self.module.px_r
            p = NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta)
            pyro.sample("x", p.to_event(1), obs=counts)


class Guide(nn.Module):
    """SCVI's encoder as a program of packed cells."""

    def __init__(self, module: nn.Module, num_genes: int) -> None:
        super().__init__()
        self.module, self.num_genes = module, num_genes

    def forward(self, x: Tensor) -> None:
        counts, _, batch = x.split([self.num_genes, 1, 1], -1)
        with pyro.plate("data", len(x), dim=-1):
            qz, _ = self.module.z_encoder(counts.log1p(), batch.long())
            pyro.sample("z", dist.Normal(qz.loc, qz.scale).to_event(1))


def pair(model: Any) -> tuple[nn.Module, nn.Module]:
    """Return SCVI's networks as a model and a guide of packed cells."""
    module, num_genes = model.module.eval(), model.module.n_input
    return Model(module, num_genes), Guide(module, num_genes)


def expression(model: Any, adata: Any, num_samples: int) -> Any:
    """Return the mean of ρ over draws of the guide, ``(N, G)``."""
    return model.get_normalized_expression(adata, n_samples=num_samples, library_size=1, return_numpy=True)


def differential(model: Any, first: str, second: str, delta: float) -> tuple[Any, Any]:
    """Return the probability of a change and the mean log₂ fold change of each gene."""
    frame = model.differential_expression(groupby="type", group1=first, group2=second, mode="change", delta=delta,
                                          batch_correction=True, silent=True)  # fmt: skip
    frame = frame.loc[model.adata.var_names]
    return frame["proba_de"].to_numpy(), frame["lfc_mean"].to_numpy()


def own_marginal(model: Any, adata: Any, num_particles: int) -> float:
    """Return SCVI's own estimate of the mean log p(x), which comes without an error."""
    return float(np.mean(model.get_marginal_ll(adata, n_mc_samples=num_particles, n_mc_samples_per_pass=10)))
