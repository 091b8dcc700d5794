"""The density of the counts of cells: against SciPy, in float32 against float64, and its offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pyro_vae import MLP
from pyro_vae.cells.likelihood import CellCounts

X = torch.tensor([[0, 3, 0, 120], [1, 0, 7, 15000], [0, 0, 0, 2]]).double()


class Constant(nn.Module):
    """Some logits, whatever z is."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*inputs.shape[:-1], *self.logits.shape)


def likelihood(zero_inflated=False, inverse_dispersion="gene"):
    torch.manual_seed(0)
    network = MLP(2 + 2 + 1, (2, 4) if zero_inflated else (4,), (5,)).double()
    found = CellCounts(network, 4, (2,), 1, zero_inflated=zero_inflated, inverse_dispersion=inverse_dispersion).double()
    nn.init.normal_(found.raw_inverse_dispersion)
    return found


def inputs():
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(3)).double()
    covariates = torch.tensor([[123.0, 0, 0.5], [15008.0, 1, -1.0], [2.0, 1, 0.0]]).double()
    return z, covariates


def by_scipy(part, z, covariates):
    """log p of each count by SciPy's negative binomial, and the probability that it is lost."""
    features = torch.cat([z, nn.functional.one_hot(covariates[:, 1].long(), 2), covariates[:, 2:]], -1)
    output = part.network(features).detach()
    gate, raw = output.unbind(-2) if part.zero_inflated else (None, output)
    mean = (covariates[:, :1] * raw.softmax(-1)).numpy()
    theta = torch.exp(0.5 * np.log(1e6) * torch.tanh(part.raw_inverse_dispersion.detach() / (0.5 * np.log(1e6))))
    theta = (theta[covariates[:, 1].long()] if theta.dim() == 2 else theta.expand(3, 4)).numpy()
    return stats.nbinom.logpmf(
        X.numpy(), theta, theta / (theta + mean)
    ), None if gate is None else gate.sigmoid().numpy()


class TestDensity:
    @pytest.mark.parametrize("inverse_dispersion", ["gene", "gene-batch"])
    def test_it_is_the_negative_binomial(self, inverse_dispersion):
        part, (z, covariates) = likelihood(inverse_dispersion=inverse_dispersion), inputs()
        expected, _ = by_scipy(part, z, covariates)
        found = part(z, covariates).log_prob(X)
        torch.testing.assert_close(found, torch.from_numpy(expected.sum(1)), rtol=1e-10, atol=1e-10)

    def test_it_is_the_zero_inflated_one(self):
        part, (z, covariates) = likelihood(zero_inflated=True), inputs()
        log_p, gate = by_scipy(part, z, covariates)
        expected = np.where(X.numpy() == 0, np.log(gate + (1 - gate) * np.exp(log_p)), np.log1p(-gate) + log_p)
        found = part(z, covariates).log_prob(X)
        torch.testing.assert_close(found, torch.from_numpy(expected.sum(1)), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("zero_inflated", [False, True])
    def test_float32_is_exact_for_large_counts_and_small_means(self, zero_inflated):
        """Means down to 1e-34 of a molecule, counts up to 10 million."""
        logits = torch.tensor([0.0, -3.0, -90.0, -40.0])
        x = torch.tensor([[0.0, 0, 0, 0], [9e6, 4e5, 0, 1], [1e7, 5e5, 2, 0], [3.0, 1, 0, 0]])
        covariates = torch.tensor([[4.0], [9.4e6], [1.05e7], [4.0]])
        logits = torch.stack([torch.full_like(logits, -30.0), logits]) if zero_inflated else logits
        part = CellCounts(Constant(logits), 4, zero_inflated=zero_inflated)
        with torch.no_grad():
            part.raw_inverse_dispersion.copy_(torch.tensor([5.0, -2.0, 0.0, 1.0]))
        found = part(torch.zeros(4, 1), covariates).log_prob(x)
        expected = part.double()(torch.zeros(4, 1).double(), covariates.double()).log_prob(x.double())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)

    def test_nothing_is_lost_where_a_mean_underflows(self):
        part = CellCounts(Constant(torch.tensor([0.0, -300.0])), 2)
        p = part(torch.zeros(1, 1), torch.tensor([[100.0]]))
        assert p.mean[0, 1] == 0  # in float32
        log_p = p.log_prob(torch.tensor([[100.0, 1.0]])) - p.log_prob(torch.tensor([[100.0, 0.0]]))
        assert log_p.item() == pytest.approx(np.log(100.0) - 300, rel=1e-6)
        assert p.sample().isfinite().all()


class TestOffset:
    @pytest.mark.parametrize("zero_inflated", [False, True])
    def test_twice_the_library_is_twice_the_mean(self, zero_inflated):
        part, (z, covariates) = likelihood(zero_inflated), inputs()
        twice = covariates * torch.tensor([2.0, 1.0, 1.0]).double()
        torch.testing.assert_close(part(z, twice).mean, 2 * part(z, covariates).mean, rtol=1e-14, atol=0)
        assert torch.equal(part.log_expression(z, twice), part.log_expression(z, covariates))
        torch.testing.assert_close(
            part.log_expression(z, covariates).exp().sum(-1), torch.ones(3).double(), rtol=1e-14, atol=0
        )
        if not zero_inflated:
            torch.testing.assert_close(part(z, covariates).mean.sum(-1), covariates[:, 0], rtol=1e-14, atol=0)

    def test_particles_broadcast(self):
        part, (z, covariates) = likelihood(), inputs()
        several = torch.stack([z, z + 1])  # (K, B, latent_dim)
        p = part(several, covariates)
        assert (p.batch_shape, p.event_shape) == ((2, 3), (4,))
        torch.testing.assert_close(p.log_prob(X)[0], part(z, covariates).log_prob(X), rtol=1e-14, atol=0)


def test_what_is_refused():
    with pytest.raises(ValueError, match="^inverse_dispersion: found 'gene-batch' without batches, expected 'gene'"):
        CellCounts(nn.Identity(), 4, inverse_dispersion="gene-batch")
    with pytest.raises(ValueError, match=r"^CellCounts: found a network output of shape \(1, 2\) .*expected \(1, 4\)"):
        CellCounts(nn.Identity(), 4)(torch.zeros(1, 2), torch.ones(1, 1))
