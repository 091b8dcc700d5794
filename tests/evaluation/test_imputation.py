"""Imputation: draws and means of what is missing, against closed forms."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vae
from pyro_vae.evaluation.imputation import impute
from pyro_vae.evaluation.weighted_mean import WeightedMean
from pyro_vae.inference.missing import observed_only, pack
from tests.support.linear_gaussian import PPCA
from tests.support.masked import B, masked_images
from tests.support.programs import perturbed, vae

pytestmark = pytest.mark.usefixtures("double")


class ExactGuide(PyroModule):
    """p(z|x_o) of a probabilistic PCA, N(M⁻¹Wᵀx, σ²M⁻¹) with the observed rows of W in M, for data of known masks."""

    def __init__(self, ppca, mask):
        super().__init__()
        self.weights, self.variance = ppca.weights, ppca.variance
        observed = mask.double()
        gram = torch.einsum("bi,ik,il->bkl", observed, self.weights, self.weights)
        self.precision = gram + self.variance * torch.eye(2)  # (B, 2, 2)

    def forward(self, x):
        loc = torch.linalg.solve(self.precision, x @ self.weights)  # x is zero where it is missing
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=self.precision / self.variance))


class Incomplete:
    """Probabilistic PCA of data with holes, and what the observed entries say of the others."""

    def __init__(self, num_data=4):
        self.ppca = PPCA.of()
        self.x = self.ppca.x[:num_data]
        self.mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]) == 1
        self.model, self.guide = self.ppca.vae.model, self.ppca.vae.guide
        self.exact_guide = ExactGuide(self.ppca, self.mask)
        covariance = self.ppca.weights @ self.ppca.weights.T + self.ppca.variance * torch.eye(6)
        self.log_p = torch.empty(num_data)
        self.mean, self.covariance = self.x.clone(), torch.zeros(num_data, 6, 6)  # of x given x_o
        for b, (x, o) in enumerate(zip(self.x, self.mask, strict=True)):
            marginal = torch.distributions.MultivariateNormal(torch.zeros(int(o.sum())), covariance[o][:, o])
            self.log_p[b] = marginal.log_prob(x[o])
            gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, ~o]).T
            self.mean[b, ~o] = gain @ x[o]
            rest = covariance[~o][:, ~o] - gain @ covariance[o][:, ~o]
            self.covariance[b] = self.covariance[b].masked_scatter(~o[:, None] & ~o, rest)
        self.variance_of_means = self.covariance.diagonal(dim1=1, dim2=2) - self.ppca.variance * ~self.mask  # of E[x|z]


@pytest.fixture
def incomplete():
    return Incomplete()


class TestLogLikelihood:
    def test_under_the_exact_posterior_every_weight_is_log_p_of_the_observed(self, incomplete):
        pair = observed_only(incomplete.model, incomplete.exact_guide)
        packed = pack(incomplete.x, incomplete.mask)
        log_w = pyro_vae.log_weights(*pair, packed, 5)
        torch.testing.assert_close(log_w, incomplete.log_p.expand(5, -1), rtol=0, atol=1e-10)

    def test_under_another_guide_it_is_estimated(self, incomplete):
        pair = observed_only(incomplete.model, Wide())
        estimate = pyro_vae.log_likelihood(*pair, pack(incomplete.x, incomplete.mask), 20_000, seed=0)
        # 4.5 standard errors for each of four data: a false alarm in 36,000 choices of the seed
        assert ((estimate.values - incomplete.log_p).abs() < 4.5 * estimate.std_error).all()
        assert estimate.std_error.max() < 0.05


class Wide(PyroModule):
    """The prior, a little wider."""

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.3).to_event(1))


class TestImpute:
    def test_under_the_exact_posterior(self, incomplete):
        num_particles = 4000
        found = impute(incomplete.model, incomplete.exact_guide, incomplete.x, incomplete.mask, num_particles, seed=0)
        missing = ~incomplete.mask
        torch.testing.assert_close(found.ess, torch.full((4,), float(num_particles)), rtol=1e-10, atol=0)
        assert torch.equal(found.mean[~missing], incomplete.x[~missing]) and (found.std_error[~missing] == 0).all()
        error = (incomplete.variance_of_means / num_particles).sqrt()
        # a variance of 4000 draws is off by 2.2 %, its root by half of that: 10 % are nine standard deviations
        torch.testing.assert_close(found.std_error[missing], error[missing], rtol=0.1, atol=0)
        # 5 standard errors for each of ten entries: a false alarm in 170,000 choices of the seed
        assert ((found.mean - incomplete.mean).abs()[missing] < 5 * error[missing]).all()

    def test_under_another_guide_weights_make_up_for_it(self, incomplete):
        arguments = incomplete.model, Wide(), incomplete.x, incomplete.mask
        found = impute(*arguments, 20_000, chunk_size=700, batch_size=3, seed=0)
        missing = ~incomplete.mask
        deviations = ((found.mean - incomplete.mean) / found.std_error)[missing]
        assert deviations.abs().max() < 5  # of ten entries: a false alarm in 170,000 choices of the seed
        assert found.std_error.max() < 0.1 and (found.ess < 12_000).all()

    def test_draws_have_the_moments_of_what_is_missing(self, incomplete):
        num_particles, num_samples = 20_000, 1000
        found = impute(
            incomplete.model, Wide(), incomplete.x, incomplete.mask, num_particles, num_samples=num_samples,
            chunk_size=3000, seed=0,
        )  # fmt: skip
        missing = ~incomplete.mask
        assert found.samples.shape == (num_samples, 4, 6)
        assert torch.equal(found.samples[:, ~missing], incomplete.x[~missing].expand(num_samples, -1))
        draws = found.samples - incomplete.mean
        variance = incomplete.covariance.diagonal(dim1=1, dim2=2)
        size = 1 / (1 / num_samples + 1 / found.ess[:, None])  # draws from a set that is itself a draw
        error = (variance / size).sqrt()
        # 5 standard errors of ten means, and of 21 products of two entries, whose variance is at most 2 σ₁² σ₂²: a
        # false alarm in 56,000 choices of the seed
        assert (draws.mean(0).abs()[missing] < 5 * error[missing]).all()
        products = torch.einsum("sbi,sbj->bij", draws, draws) / num_samples
        sizes = (2 * variance[:, :, None] * variance[:, None, :] / size[:, None]).sqrt()
        assert ((products - incomplete.covariance).abs() <= 5 * sizes).all()
        assert ((products - torch.diag_embed(variance)).abs() > 5 * sizes).any()  # it sees that there are covariances

    def test_it_takes_the_pair_in_either_form_and_leaves_nothing(self):
        x, mask = masked_images()
        program = perturbed(vae())
        bare = impute(program.model, program.guide, x, mask, 50, num_samples=3, seed=0)
        torch.rand(1)
        before = torch.get_rng_state()
        hidden = torch.where(mask, x, math.nan)
        wrapped = impute(*observed_only(program.model, program.guide), hidden, None, 50, num_samples=3, seed=0)
        for part, other in zip(bare, wrapped, strict=True):
            assert torch.equal(part, other)
        assert torch.equal(torch.get_rng_state(), before) and program.training
        assert set(bare.samples.unique().tolist()) == {0.0, 1.0}  # draws of pixels are pixels
        assert (bare.mean[~mask] > 0).all() and (bare.mean[~mask] < 1).all()

    @pytest.mark.parametrize("is_repeatable", [True, False])
    def test_of_a_program_that_is_wrong_in_a_plate_of_particles(self, is_repeatable):
        """Against a grid of z1 - z2, of variance 2; within 5 standard errors."""
        weights = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, -1.0]])

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                h = (3 * z).softmax(dim=1)  # of (B, 2) alone; (K, B, 2) is mixed up
                assert is_repeatable or len(x) == 3
                pyro.sample("x", dist.Normal(h @ weights, 0.5).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

        x = torch.tensor([[1.8, 0.1, torch.nan], [0.2, 1.9, torch.nan], [1.1, 0.8, torch.nan]])
        difference = torch.linspace(-12, 12, 4001)
        share = (3 * difference).sigmoid()
        means = torch.stack([share, 1 - share], -1) @ weights
        log_w = dist.Normal(0.0, 2**0.5).log_prob(difference)[:, None]
        log_w = log_w + dist.Normal(means[:, None, :2], 0.5).log_prob(x[:, :2]).sum(-1)
        truth = (log_w.softmax(0) * means[:, 2:]).sum(0)
        num = 20_000 if is_repeatable else 500
        with pytest.warns(UserWarning, match="^vectorize_particles: found programs that take no dimension"):
            found = impute(model, guide, x, num_particles=num, num_samples=3, chunk_size=1000, seed=0)
        assert ((found.mean[:, 2] - truth).abs() < 5 * found.std_error[:, 2]).all()
        assert (found.std_error[:, 2] < 0.1).all() and found.samples.shape == (3, 3, 3)

    def test_a_single_particle(self):
        x, mask = masked_images()
        program = vae()
        found = impute(program.model, program.guide, x, mask, 1, num_samples=2)
        assert torch.equal(found.ess, torch.ones(B)) and torch.equal(found.samples[0], found.samples[1])

    def test_devices_and_types(self, device):
        x, mask = masked_images()
        torch.set_default_dtype(torch.float32)
        program = vae().to(device)
        found = impute(program.model, program.guide, x, mask, 20, num_samples=2, chunk_size=7)
        assert {(part.dtype, part.device.type) for part in found[:3]} == {(torch.float32, device.type)}
        assert (found.ess > 0).all()

    @pytest.mark.parametrize("name", ["num_particles", "chunk_size", "batch_size", "num_samples"])
    def test_counts(self, name):
        program, x = vae(), masked_images()[0]
        least = 0 if name == "num_samples" else 1
        with pytest.raises(ValueError, match=f"^{name}: found -1, expected an integer, {least} or more"):
            impute(program.model, program.guide, x, **{name: -1})


class TestSums:
    @pytest.mark.parametrize("spread", [0.0, 1.0, 300.0])
    def test_chunks_add_up_to_the_formula(self, spread):
        """Weights that differ by hundreds of nats, and f far from zero."""
        log_w, f = spread * torch.randn(12, 3) - 5000, 1e3 + torch.randn(12, 3, 2)
        sums = WeightedMean()
        shares = [sums.update(*part) for part in zip(log_w.split(5), f.split(5), strict=True)]
        w = log_w.softmax(0)[..., None]  # (K, B, 1)
        mean = (w * f).sum(0)
        torch.testing.assert_close(sums.mean(), mean, rtol=1e-12, atol=0)
        error = (w**2 * (f - mean) ** 2).sum(0).sqrt()
        torch.testing.assert_close(sums.std_error(), error, rtol=1e-6, atol=1e-7)
        until = [log_w[:stop].logsumexp(0) for stop in (5, 10, 12)]
        expected = [(part.logsumexp(0) - total).exp() for part, total in zip(log_w.split(5), until, strict=True)]
        torch.testing.assert_close(torch.stack(shares), torch.stack(expected), rtol=1e-9, atol=1e-12)

    def test_a_single_particle_has_no_error(self):
        sums = WeightedMean()
        sums.update(torch.zeros(1, 3), torch.ones(1, 3, 2))
        assert (sums.mean() == 1).all() and sums.std_error().isnan().all()
